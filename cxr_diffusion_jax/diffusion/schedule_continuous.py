"""Paths in continuous time: rectified flow, cosine, variance preserving, EDM.

rectified flow   alpha = 1 - s,  sigma = s,      s = shift t / (1 + (shift - 1) t)
cosine           sigma / alpha = shift tan(pi t / 2),          alpha^2 + sigma^2 = 1
vp               alpha = exp(-B / 2),  sigma^2 = 1 - exp(-B),  B' = beta(t) linear
edm              alpha = 1,  sigma^(1 / rho) linear in t

Methods are those of `schedule.Schedule`, in float32; the inverse of a logsnr beyond the
path's ends is the end. Nothing is computed as 1 minus something near 1.
A value out of its range raises InputError.
"""

import dataclasses

import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
  """The straight path: alpha = 1 - s, sigma = s, s = shift t / (1 + (shift - 1) t).

  Liu et al. 2022 (2209.03003); the shift is eq. 23 of Esser et al. 2024 (2403.03206).

  Attributes:
    shift: above 1 gives more of [0, 1] to high noise, as larger images need; > 0.
  """

  shift: float = 1.0

  def __post_init__(self):
    errors.require_positive("shift", self.shift)

  def alpha(self, t: Array | float) -> Array:
    # Keeps its precision near t = 1.
    t = jnp.asarray(t, jnp.float32)
    return (1 - t) / (1 + (self.shift - 1) * t)

  def sigma(self, t: Array | float) -> Array:
    t = jnp.asarray(t, jnp.float32)
    return self.shift * t / (1 + (self.shift - 1) * t)

  def logsnr(self, t: Array | float) -> Array:
    return logsnr_of(self.alpha(t), self.sigma(t))

  def time_of_logsnr(self, logsnr: Array | float) -> Array:
    s = jax.nn.sigmoid(-0.5 * jnp.asarray(logsnr, jnp.float32))
    return s / (self.shift - (self.shift - 1) * s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
  """Variance preserving: alpha = cos(pi t / 2), sigma = sin(pi t / 2), shifted.

  Nichol and Dhariwal 2021 (2102.09672) in continuous time, Salimans and Ho 2022
  (2202.00512). A shift multiplies sigma / alpha, so logsnr falls by 2 log(shift):
  Hoogeboom et al. 2023 (2301.11093), section 3.1, with shift = image size / 64.

  Attributes:
    shift: above 1 gives more of [0, 1] to high noise, as larger images need; > 0.
  """

  shift: float = 1.0

  def __post_init__(self):
    errors.require_positive("shift", self.shift)

  def alpha(self, t: Array | float) -> Array:
    alpha, _, norm = self._plain(t)
    return alpha / norm

  def sigma(self, t: Array | float) -> Array:
    _, sigma, norm = self._plain(t)
    return self.shift * sigma / norm

  def logsnr(self, t: Array | float) -> Array:
    return logsnr_of(self.alpha(t), self.sigma(t))

  def time_of_logsnr(self, logsnr: Array | float) -> Array:
    ratio = jnp.exp(-0.5 * jnp.asarray(logsnr, jnp.float32)) / self.shift
    return (2 / jnp.pi) * jnp.arctan(ratio)

  def _plain(self, t: Array | float) -> tuple[Array, Array, Array | float]:
    """Alpha and sigma without the shift, and what the shifted ones are divided by."""
    t = jnp.asarray(t, jnp.float32)
    # Both as sines, so that alpha is exactly 0 at t = 1.
    alpha, sigma = jnp.sin(0.5 * jnp.pi * (1 - t)), jnp.sin(0.5 * jnp.pi * t)
    if self.shift == 1:
      return alpha, sigma, 1.0
    return alpha, sigma, jnp.sqrt(alpha**2 + (self.shift * sigma) ** 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VP:
  """The variance-preserving SDE, dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw.

  beta(t) = beta_min + t (beta_max - beta_min), B(t) its integral from 0:
  alpha = exp(-B / 2), sigma^2 = 1 - exp(-B). Song et al. 2020 (2011.13456), eq. 33 and
  appendix C; it is DDPM's linear betas with ever more levels.

  Attributes:
    beta_min: rate of noise at t = 0; > 0.
    beta_max: rate of noise at t = 1, at least beta_min.
  """

  beta_min: float = 0.1
  beta_max: float = 20.0

  def __post_init__(self):
    if not 0 < self.beta_min <= self.beta_max:
      raise errors.InputError(
        f"beta_min={self.beta_min}, beta_max={self.beta_max}",
        "0 < beta_min <= beta_max",
      )

  def alpha(self, t: Array | float) -> Array:
    return jnp.exp(-0.5 * self._integral(t))

  def sigma(self, t: Array | float) -> Array:
    return jnp.sqrt(-jnp.expm1(-self._integral(t)))

  def logsnr(self, t: Array | float) -> Array:
    return logsnr_of(self.alpha(t), self.sigma(t))

  def time_of_logsnr(self, logsnr: Array | float) -> Array:
    return self._time(jax.nn.softplus(-jnp.asarray(logsnr, jnp.float32)))

  def _integral(self, t: Array | float) -> Array:
    t = jnp.asarray(t, jnp.float32)
    return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

  def _time(self, integral: Array) -> Array:
    """The root of the quadratic, in the form that does not cancel near 0."""
    integral = jnp.clip(integral, 0, 0.5 * (self.beta_min + self.beta_max))
    slope = self.beta_max - self.beta_min
    root = jnp.sqrt(self.beta_min**2 + 2 * slope * integral)
    return jnp.clip(2 * integral / (self.beta_min + root), 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM:
  """The data with noise on top: alpha = 1, sigma from sigma_min to sigma_max.

  sigma(t) = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho

  Even steps of t are the sigmas of Karras et al. 2022 (2206.00364), eq. 5. A little
  noise remains at t = 0, and at t = 1 the data is still there, small beside the noise.

  Attributes:
    sigma_min: noise at t = 0; > 0.
    sigma_max: noise at t = 1, > sigma_min; data has a standard deviation of about 0.5.
    rho: how much more of [0, 1] low noise gets; > 0.
  """

  sigma_min: float = 0.002
  sigma_max: float = 80.0
  rho: float = 7.0

  def __post_init__(self):
    if not 0 < self.sigma_min < self.sigma_max:
      raise errors.InputError(
        f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}",
        "0 < sigma_min < sigma_max",
      )
    errors.require_positive("rho", self.rho)

  def alpha(self, t: Array | float) -> Array:
    return jnp.ones_like(jnp.asarray(t, jnp.float32))

  def sigma(self, t: Array | float) -> Array:
    low, high = self._roots()
    t = jnp.asarray(t, jnp.float32)
    return (low * (1 - t) + high * t) ** self.rho

  def logsnr(self, t: Array | float) -> Array:
    return -2 * jnp.log(self.sigma(t))

  def time_of_logsnr(self, logsnr: Array | float) -> Array:
    return self._time(jnp.exp(-0.5 / self.rho * jnp.asarray(logsnr, jnp.float32)))

  def _roots(self) -> tuple[float, float]:
    return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

  def _time(self, root: Array) -> Array:
    low, high = self._roots()
    return jnp.clip((root - low) / (high - low), 0, 1)


def logsnr_of(alpha: Array, sigma: Array) -> Array:
  """Log-ratio of squares [...]; the floor keeps both ends of a path finite."""
  floor = 1e-6
  return 2 * (jnp.log(jnp.maximum(alpha, floor)) - jnp.log(jnp.maximum(sigma, floor)))
