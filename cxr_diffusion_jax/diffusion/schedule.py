"""How much data and how much noise a sample holds at time t.

x_t = alpha(t) x0 + sigma(t) noise,   t in [0, 1]: 0 is data, 1 is noise
logsnr(t) = 2 log(alpha(t) / sigma(t)), finite everywhere, decreasing
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.types import Array


class Schedule(Protocol):
  """A path from data to noise; every method maps [...] to [...] elementwise."""

  def alpha(self, t: Array) -> jax.Array:
    """The factor of the data at time t, in [0, 1]."""

  def sigma(self, t: Array) -> jax.Array:
    """The factor of the noise at time t, in [0, 1]."""

  def logsnr(self, t: Array) -> jax.Array:
    """2 log(alpha / sigma) at time t, clipped so that it is finite."""

  def time_of_logsnr(self, logsnr: Array) -> jax.Array:
    """The time at which the path has this logsnr: the inverse of `logsnr`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
  """The straight path: alpha = 1 - s, sigma = s, s = shift t / (1 + (shift - 1) t).

  Liu et al. 2022 (2209.03003); the shift is eq. 23 of Esser et al. 2024 (2403.03206).

  Attributes:
    shift: above 1 gives more of [0, 1] to high noise, as larger images need; > 0.
  """

  shift: float = 1.0

  def alpha(self, t: Array) -> jax.Array:
    """[...] -> [...]; written so that it keeps its precision near t = 1."""
    t = jnp.asarray(t, jnp.float32)
    return (1 - t) / (1 + (self.shift - 1) * t)

  def sigma(self, t: Array) -> jax.Array:
    """[...] -> [...]."""
    t = jnp.asarray(t, jnp.float32)
    return self.shift * t / (1 + (self.shift - 1) * t)

  def logsnr(self, t: Array) -> jax.Array:
    """[...] -> [...], within about [-28, 28]."""
    return _logsnr(self.alpha(t), self.sigma(t))

  def time_of_logsnr(self, logsnr: Array) -> jax.Array:
    """[...] -> [...] in [0, 1]."""
    s = jax.nn.sigmoid(-0.5 * jnp.asarray(logsnr, jnp.float32))
    return s / (self.shift - (self.shift - 1) * s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
  """Variance preserving: alpha = cos(pi t / 2), sigma = sin(pi t / 2).

  Nichol and Dhariwal 2021 (2102.09672) in continuous time, Salimans and Ho 2022
  (2202.00512).
  """

  def alpha(self, t: Array) -> jax.Array:
    """[...] -> [...]; as a sine, so that it is exactly 0 at t = 1."""
    return jnp.sin(0.5 * jnp.pi * (1 - jnp.asarray(t, jnp.float32)))

  def sigma(self, t: Array) -> jax.Array:
    """[...] -> [...]."""
    return jnp.sin(0.5 * jnp.pi * jnp.asarray(t, jnp.float32))

  def logsnr(self, t: Array) -> jax.Array:
    """[...] -> [...], within about [-28, 28]."""
    return _logsnr(self.alpha(t), self.sigma(t))

  def time_of_logsnr(self, logsnr: Array) -> jax.Array:
    """[...] -> [...] in [0, 1]."""
    ratio = jnp.exp(-0.5 * jnp.asarray(logsnr, jnp.float32))
    return (2 / jnp.pi) * jnp.arctan(ratio)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledLinear:
  """Stable Diffusion's discrete noise levels, with alpha linear in between.

  beta_i = (linear from sqrt(beta_start) to sqrt(beta_end))^2, i = 0 .. num_levels - 1
  alpha(i / num_levels) = prod_{j <= i} sqrt(1 - beta_j)

  Level i is t = i / num_levels, so that published weights see the times they were
  trained with. At t = 0 a little noise remains, as it did for them. Ho et al. 2020
  (2006.11239); Rombach et al. 2022 (2112.10752).

  Attributes:
    beta_start: variance added by the first level.
    beta_end: variance added by the last level.
    num_levels: count of discrete levels.
    zero_terminal_snr: shift and scale alpha so that the last level is pure noise,
      Lin et al. 2023 (2305.08891), algorithm 1.
  """

  beta_start: float = 0.00085
  beta_end: float = 0.012
  num_levels: int = 1000
  zero_terminal_snr: bool = False

  def levels(self) -> np.ndarray:
    """Alpha [num_levels + 1] at t = i / num_levels; the last one is extrapolated."""
    ends = np.sqrt([self.beta_start, self.beta_end])
    betas = np.linspace(*ends, self.num_levels, dtype=np.float64) ** 2
    alphas = np.sqrt(np.cumprod(1 - betas))
    if self.zero_terminal_snr:
      alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
    beyond = max(2 * alphas[-1] - alphas[-2], 0.0)
    return np.append(alphas, beyond).astype(np.float32)

  def alpha(self, t: Array) -> jax.Array:
    """[...] -> [...]."""
    return jnp.interp(jnp.asarray(t, jnp.float32), self._times(), self.levels())

  def sigma(self, t: Array) -> jax.Array:
    """[...] -> [...]."""
    return jnp.sqrt(1 - self.alpha(t) ** 2)

  def logsnr(self, t: Array) -> jax.Array:
    """[...] -> [...], within about [-28, 28]."""
    return _logsnr(self.alpha(t), self.sigma(t))

  def time_of_logsnr(self, logsnr: Array) -> jax.Array:
    """[...] -> [...] in [0, 1]; a logsnr beyond the path's ends gives the end."""
    alpha = jnp.sqrt(jax.nn.sigmoid(jnp.asarray(logsnr, jnp.float32)))
    return jnp.interp(alpha, self.levels()[::-1], self._times()[::-1])

  def _times(self) -> np.ndarray:
    return np.linspace(0, 1, self.num_levels + 1, dtype=np.float32)


def load(name: str) -> type[Schedule]:
  """The constructor of the schedule of this name.

  Raises:
    InputError: no schedule has this name.
  """
  found = {
    "rectified_flow": RectifiedFlow,
    "cosine": Cosine,
    "scaled_linear": ScaledLinear,
  }
  if name not in found:
    raise errors.InputError(f"unknown schedule {name!r}", f"one of {sorted(found)}")
  return found[name]


def _logsnr(alpha: jax.Array, sigma: jax.Array) -> jax.Array:
  """Log-ratio of squares; the floor keeps both ends of the path finite."""
  floor = 1e-6
  return 2 * (jnp.log(jnp.maximum(alpha, floor)) - jnp.log(jnp.maximum(sigma, floor)))
