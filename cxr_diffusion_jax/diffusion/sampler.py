"""From noise to data: a denoiser's answers followed along the path in one scan.

times 1 = t_0 > t_1 > ... > t_n = 0;  (x_t, denoiser) -> x0, noise -> x_{t+1}

Euler   z = x / (alpha + sigma), s = sigma / (alpha + sigma):  z += (noise - x0) ds
DDIM    x = alpha' x0 + sqrt(sigma'^2 - w^2) noise + w fresh noise

The last step lands on the data itself (alpha' = 1, sigma' = 0). Fresh noise comes from
a key per sample, so an image does not depend on the batch it was made in.
"""

from collections.abc import Callable
import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import prediction as predictions
from cxr_diffusion_jax.diffusion.process import Process
from cxr_diffusion_jax.types import Array, Context, DenoiseFn

# (step: of `_steps` at one index, x, x0, noise, keys) -> x at the next time
Update = Callable[[dict, Array, Array, Array, Array | None], Array]


class Sampler(Protocol):
  """Draws data by denoising noise."""

  num_steps: int

  def __call__(
    self,
    process: Process,
    denoise_fn: DenoiseFn,
    noise: Array,
    context: Context,
    keys: Array | None = None,
  ) -> jax.Array:
    """noise [b ...] -> data [b ...], float32. See `Euler`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
  """The times at which a sampler looks.

  Attributes:
    spacing: 'time' for even steps of t, 'logsnr' for even steps of logsnr.
    shift: warps even steps of t to t shift / (1 + (shift - 1) t); above 1 spends more
      of them on high noise, 2403.03206.
    start: the first time. Below 1 the sampler is given data corrupted to that time
      in place of noise: image to image.
  """

  spacing: str = "time"
  shift: float = 1.0
  start: float = 1.0

  def __post_init__(self):
    if self.spacing not in ("logsnr", "time"):
      raise errors.InputError(
        f"unknown spacing {self.spacing!r}", "one of ['logsnr', 'time']"
      )

  def __call__(self, process: Process, num_steps: int) -> jax.Array:
    """[num_steps + 1] float32, falling from the start to 0."""
    start = jnp.float32(self.start)
    if process.prediction == "epsilon":
      # The noise says nothing of the data where there is only noise: begin a hair
      # later, where pure noise is still as good as the exact x_t.
      start = jnp.minimum(start, process.schedule.time_of_logsnr(-10.0))
    even = jnp.linspace(1, 0, num_steps + 1, dtype=jnp.float32)
    if self.spacing == "time":
      return start * self.shift * even / (1 + (self.shift - 1) * even)
    high = jnp.maximum(process.schedule.logsnr(start), -10.0)
    # Some paths keep a little noise at t = 0: stop short of their end.
    low = jnp.minimum(process.schedule.logsnr(1e-3), 10.0)
    logsnr = jnp.linspace(high, low, num_steps, dtype=jnp.float32)
    inner = process.schedule.time_of_logsnr(logsnr[1:])
    return jnp.concatenate([start[None], inner, jnp.zeros(1)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler:
  """Euler's method on the probability-flow ODE where the path is a straight line.

  For the rectified flow: x += (noise - x0) dt. On other paths the same in scaled
  coordinates, which makes it the deterministic DDIM (Karras et al. 2022, 2206.00364,
  appendix C): a Gaussian's error is O(1 / num_steps).

  Attributes:
    num_steps: evaluations of the denoiser.
    times: where they are.
    clip_x0: (low, high) to which each estimate of the data is clipped, if any.
  """

  num_steps: int = 50
  times: Times = Times()
  clip_x0: tuple[float, float] | None = None

  def __call__(
    self,
    process: Process,
    denoise_fn: DenoiseFn,
    noise: Array,
    context: Context,
    keys: Array | None = None,
  ) -> jax.Array:
    """Draws data.

    Args:
      process: the path, and what the denoiser predicts.
      denoise_fn: (x_t [b ...], t [b] in [0, 1], context) -> prediction [b ...].
      noise: [b ...] standard normal (see `draw_noise`), or x_t at `times.start`.
      context: handed to `denoise_fn` as it is.
      keys: [b] typed keys; not used by a deterministic sampler.

    Returns:
      [b ...] float32.
    """
    return self.trajectory(process, denoise_fn, noise, context, keys)[0]

  def trajectory(self, process, denoise_fn, noise, context, keys=None):
    """As `__call__`, and the estimates of the data, [num_steps b ...]."""
    return _follow(self, _euler_update, process, denoise_fn, noise, context, keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM:
  """Song et al. 2020 (2010.02502), eq. 12 and 16, for any alpha and sigma.

  w = eta sigma' sqrt(1 - SNR / SNR'): eta 0 is deterministic, 1 is ancestral sampling
  (DDPM). Primes are the next, less noisy time.

  Attributes:
    num_steps: evaluations of the denoiser.
    times: where they are.
    eta: how much of the noise is made anew at each step, in [0, 1].
    clip_x0: (low, high) to which each estimate of the data is clipped, if any.
  """

  num_steps: int = 50
  times: Times = Times()
  eta: float = 0.0
  clip_x0: tuple[float, float] | None = None

  def __call__(
    self,
    process: Process,
    denoise_fn: DenoiseFn,
    noise: Array,
    context: Context,
    keys: Array | None = None,
  ) -> jax.Array:
    """As `Euler`; `keys` [b] are needed where eta > 0.

    Raises:
      ValueError: eta > 0 without keys.
    """
    return self.trajectory(process, denoise_fn, noise, context, keys)[0]

  def trajectory(self, process, denoise_fn, noise, context, keys=None):
    """As `__call__`, and the estimates of the data, [num_steps b ...]."""
    if self.eta > 0 and keys is None:
      raise ValueError("DDIM with eta > 0 makes fresh noise: give keys [b]")

    def update(step, x, x0, noise, keys):
      del x
      ratio = step["alpha"] * step["next_sigma"]
      ratio = (ratio / (step["next_alpha"] * step["sigma"])) ** 2
      fresh = step["next_sigma"] * jnp.sqrt(jnp.maximum(1 - ratio, 0)) * self.eta
      kept = jnp.sqrt(jnp.maximum(step["next_sigma"] ** 2 - fresh**2, 0))
      x = step["next_alpha"] * x0 + kept * noise
      if self.eta > 0:
        folded = jax.vmap(jax.random.fold_in, (0, None))(keys, step["index"])
        x = x + fresh * draw_noise(folded, x.shape[1:])
      return x

    return _follow(self, update, process, denoise_fn, noise, context, keys)


def draw_noise(keys: Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal [b *shape] float32, each sample from its own typed key of [b]."""
  return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def load(name: str) -> type[Sampler]:
  """The constructor of the sampler of this name.

  Raises:
    InputError: no sampler has this name.
  """
  found = {"euler": Euler, "ddim": DDIM}
  if name not in found:
    raise errors.InputError(f"unknown sampler {name!r}", f"one of {sorted(found)}")
  return found[name]


def _euler_update(step, x, x0, noise, keys):
  del keys
  total = step["alpha"] + step["sigma"]
  next_total = step["next_alpha"] + step["next_sigma"]
  change = step["next_sigma"] / next_total - step["sigma"] / total
  return next_total * (x / total + change * (noise - x0))


def _steps(process: Process, times: jax.Array) -> dict[str, jax.Array]:
  """What each step needs, every entry [num_steps]; the last one lands on the data."""
  alpha = process.schedule.alpha(times).at[-1].set(1.0)
  sigma = process.schedule.sigma(times).at[-1].set(0.0)
  return {
    "index": jnp.arange(times.shape[0] - 1),
    "t": times[:-1],
    "alpha": alpha[:-1],
    "sigma": sigma[:-1],
    "next_alpha": alpha[1:],
    "next_sigma": sigma[1:],
  }


def _follow(
  sampler: Euler | DDIM,
  update: Update,
  process: Process,
  denoise_fn: DenoiseFn,
  noise: Array,
  context: Context,
  keys: Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Scans `update` over the sampler's times; returns x0 and all estimates of it."""

  def body(x, step):
    t = jnp.full(x.shape[:1], step["t"])
    prediction = denoise_fn(x, t, context).astype(jnp.float32)
    alpha, sigma = step["alpha"], step["sigma"]
    x0, noise = predictions.split(process.prediction, prediction, x, alpha, sigma)
    if sampler.clip_x0 is not None:
      x0 = jnp.clip(x0, *sampler.clip_x0)
      noise = predictions.convert(x0, "x0", "epsilon", x, alpha, sigma)
    return update(step, x, x0, noise, keys), x0

  steps = _steps(process, sampler.times(process, sampler.num_steps))
  return jax.lax.scan(body, jnp.asarray(noise, jnp.float32), steps)
