"""What changes while training: step, parameters, their average, the optimiser.

Random keys and batches are functions of the seed and the step, and need no state.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from cxr_diffusion_jax import types


@flax.struct.dataclass
class TrainState:
  """The state of a run after `step` updates.

  Attributes:
    ema_params: their exponential moving average, float32; what is sampled from.
    power_ema: averages of power profiles, one for each tracked length; see `power_ema`.
    projector: parameters used in training only (see `alignment`); {} for none.
  """

  step: jax.Array
  params: types.Params
  ema_params: types.Params
  opt_state: types.Params
  power_ema: tuple[types.Params, ...] = ()
  projector: types.Params = flax.struct.field(default_factory=dict)


def create(
  params: types.Params,
  init_fn: Callable[[types.Params], types.Params],
  num_power_ema: int = 0,
  projector: types.Params | None = None,
) -> TrainState:
  """Returns the state before the first update."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # A copy: the state is donated, and one buffer cannot be donated twice.
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=init_fn(learned(params, projector or {})),
    power_ema=tuple(jax.tree.map(jnp.copy, params) for _ in range(num_power_ema)),
    projector=projector or {},
  )


def learned(params: types.Params, projector: types.Params) -> types.Params:
  """The tree that the optimiser updates: the denoiser's, plus a projector if any."""
  return {"denoiser": params, "projector": projector} if projector else params


def split(
  learned: types.Params, has_projector: bool
) -> tuple[types.Params, types.Params]:
  """The inverse of `learned`: parameters of the denoiser and of the projector."""
  return (learned["denoiser"], learned["projector"]) if has_projector else (learned, {})
