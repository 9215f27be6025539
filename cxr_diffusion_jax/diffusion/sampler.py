"""From noise to data: follows a denoiser's predictions along the path in one scan.

times 1 = t_0 > t_1 > ... > t_n = 0;  (x_t, denoiser) -> x0, noise -> Method -> x_{t+1}

The last step lands on the data itself (alpha' = 1, sigma' = 0). Fresh noise comes from
a key per sample, so an image does not depend on its batch. Methods are the classes in
`diffusion.samplers`; `times` has the points that they go through.
"""

from collections.abc import Callable
import dataclasses
import importlib

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import naming
from cxr_diffusion_jax.diffusion import prediction as predictions
from cxr_diffusion_jax.diffusion.method import Method
from cxr_diffusion_jax.diffusion.process import Process
from cxr_diffusion_jax.diffusion.samplers.one_step import Euler
from cxr_diffusion_jax.diffusion.times import Times
from cxr_diffusion_jax.types import Context, DenoiseFn

_SAMPLERS = "cxr_diffusion_jax.diffusion.samplers"

# (x [b ...], t [] just reached, keys [b] or None) -> x [b ...]
ConstrainFn = Callable[[Array, Array, Array | None], Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
  """Draws data by denoising noise with a method.

  Attributes:
    method: its equation.
    num_steps: steps from noise to data.
    times: the points in between.
    clip_x0: (low, high) to which each estimate of the data is clipped, if any. For
      pixels only: latents have no bounds.
    dynamic_threshold: in (0, 1): each estimate is clipped to that quantile of its
      absolute values, and divided by it, where it is above 1: Saharia et al. 2022
      (2205.11487), section 2.3, with 0.995. For pixels in [-1, 1], against the
      overexposure of large guidance scales. Before `clip_x0`.
  """

  method: Method = Euler()  # noqa: RUF009 - frozen, so safe to share
  num_steps: int = 50
  times: Times = Times()  # noqa: RUF009
  clip_x0: tuple[float, float] | None = None
  dynamic_threshold: float | None = None

  @property
  def num_evaluations(self) -> int:
    """Evaluations of the denoiser that a sample costs."""
    return self.num_steps * self.method.stages - (self.method.stages - 1)

  def __call__(
    self,
    process: Process,
    denoise_fn: DenoiseFn,
    noise: Array,
    context: Context,
    keys: Array | None = None,
    *,
    constrain_fn: ConstrainFn | None = None,
  ) -> Array:
    """Draws data.

    Args:
      process: the path, and what the denoiser predicts.
      denoise_fn: (x_t [b ...], t [b] in [0, 1], context) -> prediction [b ...].
      noise: [b ...] standard normal (see `draw_noise`), which is scaled to the noise of
        the first time; or, where `times.start` < 1, x_t itself at the first time.
      context: passed to `denoise_fn`.
      keys: [b] typed keys, for methods that make fresh noise and for `constrain_fn`.
      constrain_fn: applied to x after each step, as inpainting does. It is given x
        [b ...], the time [] just reached (0 in the end), and keys [b] of its own for
        this step, None if there are none.

    Returns:
      [b ...] float32.

    Raises:
      ValueError: a method that makes fresh noise, without keys.
    """
    return self.follow(
      process, denoise_fn, noise, context, keys, constrain_fn=constrain_fn
    )[0]

  def follow(
    self, process, denoise_fn, noise, context, keys=None, *, constrain_fn=None
  ) -> tuple[Array, Array, Array]:
    """As `__call__`; also the estimate and x of each step, each [num_steps b ...]."""
    method = self.method
    row = np.arange(1, self.num_evaluations + 1)
    ends = (row % method.stages == 0) | (row == self.num_evaluations)
    if method.stochastic and keys is None:
      raise ValueError(f"{type(method).__name__} makes fresh noise: give keys [b]")
    grid = self.times.grid(process, self.num_steps)
    index = np.arange(ends.size) // method.stages
    table = {"index": index, "ends": ends} | method.table(process.schedule, grid)

    def body(carry, step):
      x, memory = carry
      t = jnp.full(x.shape[:1], step["t"])
      prediction = denoise_fn(x, t, context).astype(jnp.float32)
      x0, noise = self._split(process.prediction, prediction, x, step)
      fresh = None
      if keys is not None and method.stochastic:
        fresh = fresh_noise(keys, step["index"], x.shape[1:])
      x, memory = method.update(step, x, x0, noise, fresh, memory)
      if constrain_fn is not None:
        own = None if keys is None else _fold(keys, self.num_steps + step["index"])
        constrained = constrain_fn(x, step["next_t"], own)
        x = constrained if ends.all() else jnp.where(step["ends"], constrained, x)
      return (x, memory), (x0, x)

    x = jnp.asarray(noise, jnp.float32)
    if self.times.start == 1:
      x = grid.sigma[0] * x
    (x, _), (estimates, states) = jax.lax.scan(body, (x, method.memory(x)), table)
    return x, estimates[:: method.stages], states[ends]

  def _split(self, kind, prediction, x, step):
    """The data and the noise that a prediction means, the data within its bounds."""
    alpha, sigma = step["alpha"], step["sigma"]
    x0, noise = predictions.split(kind, prediction, x, alpha, sigma)
    if self.dynamic_threshold is None and self.clip_x0 is None:
      return x0, noise
    if self.dynamic_threshold is not None:
      size = jnp.abs(x0.reshape(x0.shape[0], -1))
      bound = jnp.quantile(size, self.dynamic_threshold, axis=1)
      bound = jnp.maximum(bound, 1).reshape(-1, *(1,) * (x0.ndim - 1))
      x0 = jnp.clip(x0, -bound, bound) / bound
    if self.clip_x0 is not None:
      x0 = jnp.clip(x0, *self.clip_x0)
    return x0, predictions.convert(x0, "x0", "epsilon", x, alpha, sigma)


def draw_noise(keys: Array, shape: tuple[int, ...]) -> Array:
  """Standard normal [b *shape] float32, each sample from its own typed key of [b]."""
  return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def fresh_noise(keys: Array, step: int | Array, shape: tuple[int, ...]) -> Array:
  """The noise [b *shape] that step number `step` of a sample with keys [b] adds."""
  return draw_noise(_fold(keys, step), shape)


def methods() -> dict[str, type[Method]]:
  """Name -> class of every sampler in `diffusion.samplers`, sorted."""
  classes = {}
  for module_name in naming.modules(_SAMPLERS):
    module = importlib.import_module(f"{_SAMPLERS}.{module_name}")
    classes |= {
      value.name: value
      for value in vars(module).values()
      if isinstance(value, type)
      and value.__module__ == module.__name__
      and "name" in vars(value)
    }
  return dict(sorted(classes.items()))


def load(name: str) -> type[Method]:
  """The class of the method of this name; InputError for an unknown one."""
  return naming.choose("sampler", name, methods())


def _fold(keys: Array, number: int | Array) -> Array:
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
