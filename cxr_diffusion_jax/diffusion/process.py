"""Data to noise, and what a denoiser should answer, at one time per sample.

corrupt:  x_t = alpha(t) x0 + sigma(t) noise,  noise ~ N(0, 1)
target:   what the denoiser should answer for (x0, noise, t)
A value out of its range raises InputError.
"""

import dataclasses

import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.diffusion import prediction as predictions
from cxr_diffusion_jax.diffusion.schedule import RectifiedFlow, Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
  """A schedule together with what the denoiser predicts on it. All float32.

  Attributes:
    schedule: alpha and sigma over time.
    prediction: one of `prediction.names()`.
  """

  schedule: Schedule = RectifiedFlow()  # noqa: RUF009 - frozen, so safe to share
  prediction: str = "velocity"

  def __post_init__(self):
    predictions.check(self.prediction)

  def coefficients(self, t: Array, num_axes: int) -> tuple[Array, Array]:
    """Alpha and sigma of t [b], shaped [b 1 ...] with `num_axes` axes."""
    t = jnp.asarray(t, jnp.float32)
    t = t.reshape(t.shape + (1,) * (num_axes - t.ndim))
    return self.schedule.alpha(t), self.schedule.sigma(t)

  def corrupt(self, key: Array, x0: Array, t: Array) -> tuple[Array, Array]:
    """x0 [b ...], t [b] in [0, 1] -> x_t [b ...] and the fresh noise in it, float32."""
    noise = jax.random.normal(key, x0.shape, jnp.float32)
    alpha, sigma = self.coefficients(t, x0.ndim)
    return alpha * x0 + sigma * noise, noise

  def target(self, x0: Array, noise: Array, t: Array) -> Array:
    """[b ...], [b ...], [b] -> what the denoiser should answer, [b ...]."""
    alpha, sigma = self.coefficients(t, x0.ndim)
    return predictions.target(self.prediction, x0, noise, alpha, sigma)
