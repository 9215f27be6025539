"""The optimiser: clipped AdamW with a warm-up and a decay of the learning rate.

grad --clip by global norm--> AdamW (decay on kernels only) --x learning rate(step)-->
  (--> weights of EDM2 back to unit magnitude)
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.models import edm2_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
  """How parameters are updated (AdamW: Loshchilov and Hutter, 1711.05101).

  Attributes:
    learning_rate: peak learning rate; >= 0.
    schedule: 'cosine' decay to `final_rate` of the peak, 'constant', or 'inverse_sqrt':
      the peak over sqrt(step / decay_after), which needs no last step (Karras et al.
      2024, 2312.02696, section 3.1).
    warmup_steps: updates of linear warm-up.
    final_rate: last learning rate over the peak, in [0, 1].
    weight_decay: decoupled decay of kernels, not of biases, norms and embeddings; >= 0.
    clip_norm: largest global norm of the gradient; 0 for no clipping.
    b1: decay of the first moment, in [0, 1).
    b2: decay of the second moment, in [0, 1).
    accumulation: number of equal parts of a batch that are processed in turn.
    decay_after: step until which 'inverse_sqrt' stays at the peak.
    unit_weights: rescale EDM2's weights to unit magnitude after each update. Otherwise
      they grow, which lowers the effective learning rate.
  """

  learning_rate: float
  schedule: str = "cosine"
  warmup_steps: int = 0
  final_rate: float = 0.0
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  b1: float = 0.9
  b2: float = 0.999
  accumulation: int = 1
  decay_after: int = 1
  unit_weights: bool = False

  def __post_init__(self):
    if self.schedule not in ("constant", "cosine", "inverse_sqrt"):
      raise errors.InputError(
        f"config.optimizer.schedule={self.schedule!r}",
        "'constant', 'cosine' or 'inverse_sqrt'",
      )
    for names, *bounds in (
      (("accumulation", "decay_after"), 1),
      (("learning_rate", "warmup_steps", "weight_decay", "clip_norm"), 0),
      (("b1", "b2"), 0, 1),
    ):
      for name in names:
        value = getattr(self, name)
        errors.require_range(f"config.optimizer.{name}", value, *bounds)
    if not 0 <= self.final_rate <= 1:
      raise errors.InputError(
        f"config.optimizer.final_rate={self.final_rate}", "[0, 1]"
      )


def learning_rate(settings: OptimizerSettings, num_steps: int) -> optax.Schedule:
  """Returns the learning rate as a function of the step."""
  warmup = min(settings.warmup_steps, num_steps)
  after: optax.Schedule
  if settings.schedule == "constant":
    after = optax.constant_schedule(settings.learning_rate)
  elif settings.schedule == "inverse_sqrt":

    def inverse_sqrt(count: jax.typing.ArrayLike) -> jax.Array:
      late = jnp.maximum((jnp.asarray(count) + warmup) / settings.decay_after, 1.0)
      return settings.learning_rate * jax.lax.rsqrt(late)

    after = inverse_sqrt
  else:
    after = optax.cosine_decay_schedule(
      settings.learning_rate, max(num_steps - warmup, 1), alpha=settings.final_rate
    )
  # Not from zero: the first update would do nothing.
  ramp = optax.linear_schedule(
    settings.learning_rate / (warmup + 1), settings.learning_rate, max(warmup, 1)
  )
  return optax.join_schedules([ramp, after], [warmup])


def decay_mask(params: types.Params) -> types.Params:
  """Returns True for arrays named `kernel` with two axes or more."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: np.ndim(leaf) > 1 and path[-1].key == "kernel", params
  )


def make_optimizer(
  settings: OptimizerSettings, num_steps: int
) -> optax.GradientTransformation:
  """Builds the chain for a run of `num_steps` updates."""
  parts = []
  if settings.clip_norm > 0:
    parts.append(optax.clip_by_global_norm(settings.clip_norm))
  parts.append(
    optax.adamw(
      learning_rate(settings, num_steps),
      b1=settings.b1,
      b2=settings.b2,
      weight_decay=settings.weight_decay,
      mask=decay_mask,
    )
  )
  if settings.unit_weights:
    parts.append(optax.stateless(_to_unit_weights))
  return optax.chain(*parts)


def _to_unit_weights(updates: types.Params, params: types.Params) -> types.Params:
  """Changes updates so that each output of EDM2's `weight`s ends at unit magnitude."""

  def end(path, update, param):
    if path[-1].key != "weight":
      return update
    return edm2_layers.unit_weight(param + update) - param

  return jax.tree_util.tree_map_with_path(end, updates, params)
