"""What changes while training: step, parameters, their average, the optimiser.

No random key and no iterator stands here: both are functions of the seed and the step.
"""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cxr_diffusion_jax import types


@flax.struct.dataclass
class TrainState:
  """The state of a run after `step` updates.

  Attributes:
    step: [] int32, updates done.
    params: the denoiser's parameters, float32.
    ema_params: their exponential moving average, float32; what is sampled from.
    opt_state: the optimiser's state.
  """

  step: jax.Array
  params: types.Params
  ema_params: types.Params
  opt_state: optax.OptState


def create(params: types.Params, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns the state before the first update."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # A copy: the state is donated, and one buffer cannot be donated twice.
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=optimizer.init(params),
  )
