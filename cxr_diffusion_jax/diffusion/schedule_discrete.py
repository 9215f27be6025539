"""Paths of discrete noise levels, those of published weights, continued in between.

alpha(i / num_levels) = prod_{j <= i} sqrt(1 - beta_j),   alpha^2 + sigma^2 = 1

linear           beta_i even from beta_start to beta_end
scaled_linear    sqrt(beta_i) even
squared_cosine   beta_i = 1 - f(i + 1) / f(i), f a squared cosine, at most 0.999

Level i is t = i / num_levels, so that published weights see the times they were
trained with. Between levels logsnr is linear in t, as samplers that choose their own
noise levels have it. The tables are made in float64 and hold sigma beside alpha: as
sqrt(1 - alpha^2) in float32 it would lose half its digits near t = 0.
A value out of its range raises InputError.
"""

import dataclasses
import functools

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion.schedule_continuous import logsnr_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discrete:
  """A variance-preserving path through discrete levels.

  At t = 0 a little noise remains, as it did for published weights; t = 1 is one level
  beyond the last, extrapolated (with a terminal SNR of zero: the last level itself).

  Attributes:
    num_levels: count of discrete levels; at least 3.
    zero_terminal_snr: shift and scale alpha so that the last level is pure noise,
      Lin et al. 2023 (2305.08891), algorithm 1.
    terminal_logsnr: shift and scale alpha likewise, to this logsnr of the last level,
      so that a sampler may begin with pure noise and the noise still determines the
      data; None for the levels as published.
  """

  num_levels: int = 1000
  zero_terminal_snr: bool = False
  terminal_logsnr: float | None = None

  def __post_init__(self):
    if self.num_levels < 3:
      raise errors.InputError(f"num_levels={self.num_levels}", "at least 3")
    if self.zero_terminal_snr and self.terminal_logsnr is not None:
      raise errors.InputError(
        f"terminal_logsnr={self.terminal_logsnr} with zero_terminal_snr", "one of them"
      )
    betas = self.betas()
    if not np.all((betas > 0) & (betas < 1)):
      raise errors.InputError(
        f"betas from {betas.min():g} to {betas.max():g}", "between 0 and 1"
      )

  def betas(self) -> np.ndarray:
    """The variance that each level adds, [num_levels] float64 in (0, 1)."""
    raise NotImplementedError

  def alphas_cumprod(self) -> np.ndarray:
    """Alpha squared [num_levels], float64, at t = i / num_levels."""
    squares = np.cumprod(1 - self.betas())
    last = 0.0
    if self.terminal_logsnr is not None:
      last = 1 / np.sqrt(1 + np.exp(-self.terminal_logsnr))
    elif not self.zero_terminal_snr:
      return squares
    alphas = np.sqrt(squares)
    scale = (alphas[0] - last) / (alphas[0] - alphas[-1])
    return (last + (alphas - alphas[-1]) * scale) ** 2

  def alpha(self, t: Array | float) -> Array:
    return self._at(t)[0]

  def sigma(self, t: Array | float) -> Array:
    return self._at(t)[1]

  def logsnr(self, t: Array | float) -> Array:
    return logsnr_of(*self._at(t))

  def time_of_logsnr(self, logsnr: Array | float) -> Array:
    logsnr = jnp.asarray(logsnr, jnp.float32)
    alphas, _, known = self._tables
    known = known[alphas > 0]
    position = jnp.interp(-logsnr, -known, np.arange(known.size, dtype=np.float32))
    if self.zero_terminal_snr:
      ratio = jnp.sqrt(jax.nn.sigmoid(logsnr)) / alphas[known.size - 1]
      last = known.size - jnp.clip(ratio, 0, 1)
      position = jnp.where(logsnr < known[-1], last, position)
    return position / self.num_levels

  @functools.cached_property
  def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Alpha, sigma, logsnr [num_levels + 1] float32; the last one is extrapolated."""
    squares = self.alphas_cumprod()
    with np.errstate(divide="ignore"):
      logsnr = np.log(squares / (1 - squares))
    beyond = -np.inf if self.zero_terminal_snr else 2 * logsnr[-1] - logsnr[-2]
    squares = np.append(squares, 1 / (1 + np.exp(-beyond)))
    logsnr = np.append(logsnr, beyond)
    return (
      np.sqrt(squares).astype(np.float32),
      np.sqrt(1 - squares).astype(np.float32),
      logsnr.astype(np.float32),
    )

  def _at(self, t: Array | float) -> tuple[Array, Array]:
    """Alpha and sigma [...] of t [...]."""
    # A time within rounding of a level's is that level.
    position = jnp.clip(jnp.asarray(t, jnp.float32), 0, 1) * self.num_levels
    level = jnp.round(position)
    near = jnp.abs(position - level) < 5e-7 * self.num_levels
    position += jax.lax.stop_gradient(jnp.where(near, level - position, 0))
    index = jnp.clip(jnp.floor(position), 0, self.num_levels - 1).astype(jnp.int32)
    part = position - index
    alphas, sigmas, logsnr = self._tables
    with np.errstate(invalid="ignore"):
      fall = np.where(alphas[1:] > 0, logsnr[:-1] - logsnr[1:], 0)
    alpha = jnp.asarray(alphas)[index]
    sigma = jnp.asarray(sigmas)[index] * jnp.exp(0.5 * part * jnp.asarray(fall)[index])
    norm = jnp.sqrt(alpha**2 + sigma**2)
    if not self.zero_terminal_snr:
      return alpha / norm, sigma / norm
    # Where logsnr falls to minus infinity within a level, alpha is what is linear.
    last = index >= self.num_levels - 2
    straight = alpha * (1 - part)
    return (
      jnp.where(last, straight, alpha / norm),
      jnp.where(last, _complement(straight), sigma / norm),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Discrete):
  """DDPM's levels: Ho et al. 2020 (2006.11239), section 4.

  Attributes:
    beta_start: variance that the first level adds.
    beta_end: variance that the last level adds.
  """

  beta_start: float = 0.0001
  beta_end: float = 0.02

  def betas(self) -> np.ndarray:
    return np.linspace(self.beta_start, self.beta_end, self.num_levels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledLinear(Linear):
  """Stable Diffusion's levels, whose roots are even: 2112.10752, its code."""

  beta_start: float = 0.00085
  beta_end: float = 0.012

  def betas(self) -> np.ndarray:
    roots = self.beta_start**0.5, self.beta_end**0.5
    return np.linspace(*roots, self.num_levels) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquaredCosine(Discrete):
  """Nichol and Dhariwal 2021 (2102.09672), eq. 17: offset 0.008, at most 0.999."""

  def betas(self) -> np.ndarray:
    time = np.linspace(0, 1, self.num_levels + 1)
    left = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - left[1:] / left[:-1], 0.999)


def _complement(value: Array) -> Array:
  """sqrt(1 - value^2) [...] of values in [0, 1], without loss near 1."""
  return jnp.sqrt((1 - value) * (1 + value))
