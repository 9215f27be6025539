"""The times of a training step.

key, n, schedule -> t [n] in (0, 1);   the loss at t is multiplied by weight(t)

Stratified: one shared offset u and t_i = (u + i / n) mod 1, so that every batch covers
the whole path evenly; each t_i alone is still uniform (Kingma et al. 2021, 2107.00630,
appendix I.1). Samplers that are not uniform weight the loss by their density;
`Importance` alone divides by it again.

A shift multiplies sigma / alpha, as larger images need (2301.11093, 2403.03206). It may
follow from the data: shift = max(1, sqrt(variance / 150)), variance: of the first mode,
which grows with the number of pixels. So this mode is decided at the same quantile of
the times as at 64 pixels, the size that needs no shift (2301.11093, section 3.1): there
the Haar code of NIH's images has a variance of 150. At 256 pixels it has 1,370 and the
shift is 3.0, that of 2403.03206, section 5.3.2.
A value out of its range raises InputError.
"""

import dataclasses
import math

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.diffusion.schedule import Schedule

# Variance of the first mode of a code whose training times need no shift.
REFERENCE_VARIANCE = 150.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeSampler:
  """Draws times for a batch, by the inverse of their distribution function.

  Attributes:
    stratified: spread the quantiles of one batch evenly.
  """

  stratified: bool = True

  def __call__(self, key: Array, num: int, schedule: Schedule) -> Array:
    """[num] float32 in (0, 1)."""
    if self.stratified:
      quantile = (jax.random.uniform(key) + jnp.arange(num) / num) % 1.0
    else:
      quantile = jax.random.uniform(key, (num,))
    # Off 0 and 1, where the log-ratio and ndtri are infinite.
    return self.times_at(_inside(quantile), schedule)

  def times_at(self, quantile: Array, schedule: Schedule) -> Array:
    """Quantiles [num] in (0, 1) -> times [num] in (0, 1)."""
    raise NotImplementedError

  def for_variance(self, variance: float) -> "TimeSampler":
    """Returns the sampler for data whose first mode has this variance; 0: unknown."""
    del variance
    return self

  def weight(self, t: Array, schedule: Schedule) -> Array:
    """Factors [...] float32 of the losses at t [...]; 1 by default."""
    del schedule
    return jnp.ones_like(t, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(TimeSampler):
  """Every time is as likely as any other.

  Attributes:
    stratified: spread the times of one batch evenly.
  """

  def times_at(self, quantile: Array, schedule: Schedule) -> Array:
    return quantile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shifted(TimeSampler):
  """A time sampler with a shift.

  Attributes:
    shift: factor of the noise level; above 1 leans to noise, 0 takes it from the data's
      first mode, see above, and is 1 where that is unknown.
    stratified: spread the quantiles of one batch evenly.
  """

  shift: float = 1.0

  def __post_init__(self):
    if not 0 <= self.shift < math.inf:
      raise errors.InputError(f"shift={self.shift} of times", "0 or more")

  def for_variance(self, variance: float) -> "TimeSampler":
    if self.shift:
      return self
    shift = max(1.0, math.sqrt(variance / REFERENCE_VARIANCE))
    return dataclasses.replace(self, shift=shift)

  @property
  def offset(self) -> float:
    """What the shift adds to log(sigma / alpha)."""
    return math.log(self.shift or 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormal(Shifted):
  """t = sigmoid(log(shift) + mean + std z), z ~ N(0, 1): most often mid-path.

  Esser et al. 2024 (2403.03206), section 3.1.

  Attributes:
    mean: above 0 leans to noise, below 0 to data.
    std: larger reaches the ends of the path more often; > 0.
    shift: factor of t / (1 - t), the rectified flow's sigma / alpha; 0 takes it from
      the data's first mode, see above.
    stratified: spread the quantiles of one batch evenly.
  """

  mean: float = 0.0
  std: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    _check_law(self.mean, self.std)

  def times_at(self, quantile: Array, schedule: Schedule) -> Array:
    z = jax.scipy.special.ndtri(quantile)
    return jax.nn.sigmoid(self.offset + self.mean + self.std * z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogNormal(Shifted):
  """log(sigma / alpha) = log(shift) + mean + std z, z ~ N(0, 1), if the path has that.

  Karras et al. 2022 (2206.00364), table 1, for data of standard deviation 0.5; for
  another one, add the logarithm of how many times larger it is to the mean. Noise
  beyond the path's ends becomes that of the end.

  Attributes:
    mean: the paper's P_mean.
    std: the paper's P_std; > 0.
    shift: factor of sigma / alpha; 0 takes it from the data's first mode, see above.
    stratified: spread the quantiles of one batch evenly.
  """

  mean: float = -1.2
  std: float = 1.2

  def __post_init__(self):
    super().__post_init__()
    _check_law(self.mean, self.std)

  def times_at(self, quantile: Array, schedule: Schedule) -> Array:
    z = jax.scipy.special.ndtri(quantile)
    ratio = self.offset + self.mean + self.std * z
    return _inside(schedule.time_of_logsnr(-2 * ratio))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importance(TimeSampler):
  """Times in proportion to a profile of logsnr, and losses divided by that density.

  The mean loss is that of uniform times, and varies the less between batches the more
  the profile resembles the loss: Nichol and Dhariwal 2021 (2102.09672), section 3.3,
  with a fixed profile in place of a running one, so that a step stays a pure function
  and a resumed run draws what an uninterrupted one draws. Losses vary least where the
  profile is the root mean square of the losses at each logsnr.

  Attributes:
    logsnr: knots, increasing; a schedule's ends need not be reached.
    profile: at each knot, how likely times there are, relative to the others; linear
      between knots and constant beyond; >= 0, not all 0.
    uniform: part of the times that is drawn uniformly, in (0, 1]: no loss is
      multiplied by more than 1 / uniform.
    num_cells: of [0, 1], within which the density is constant.
    stratified: spread the quantiles of one batch evenly.
  """

  logsnr: tuple[float, ...] = (-10.0, -5.0, 0.0, 5.0, 10.0)
  profile: tuple[float, ...] = (0.1, 0.6, 1.0, 0.6, 0.1)
  uniform: float = 0.1
  num_cells: int = 1000

  def __post_init__(self):
    knots, profile = np.array(self.logsnr), np.array(self.profile)
    if not (
      knots.shape == profile.shape
      and knots.size
      and np.all(np.diff(knots) > 0)
      and np.all(profile >= 0)
      and profile.sum() > 0
    ):
      raise errors.InputError(
        f"logsnr={self.logsnr} and profile={self.profile}",
        "as many increasing knots as values at least 0, not all of them 0",
      )
    if not (0 < self.uniform <= 1 and self.num_cells > 0):
      raise errors.InputError(
        f"uniform={self.uniform}, num_cells={self.num_cells}",
        "uniform in (0, 1] and at least one cell",
      )

  def times_at(self, quantile: Array, schedule: Schedule) -> Array:
    mass = jnp.cumsum(self._density(schedule))
    mass = jnp.concatenate([jnp.zeros(1), mass / mass[-1]])
    edges = jnp.linspace(0, 1, self.num_cells + 1)
    return _inside(jnp.interp(quantile, mass, edges))

  def weight(self, t: Array, schedule: Schedule) -> Array:
    """1 / density at t, [...] in (0, 1 / uniform]."""
    cell = jnp.floor(jnp.asarray(t, jnp.float32) * self.num_cells).astype(jnp.int32)
    return 1 / self._density(schedule)[jnp.clip(cell, 0, self.num_cells - 1)]

  def _density(self, schedule: Schedule) -> Array:
    """[num_cells], mean 1."""
    middles = (np.arange(self.num_cells, dtype=np.float32) + 0.5) / self.num_cells
    knots = np.asarray(self.logsnr, np.float32)
    profile = np.asarray(self.profile, np.float32)
    density = jnp.interp(schedule.logsnr(jnp.asarray(middles)), knots, profile)
    # A path may lie where the profile is 0 throughout.
    density = density / jnp.maximum(density.mean(), 1e-6)
    mixed = self.uniform + (1 - self.uniform) * density
    return mixed / mixed.mean()


def load(name: str) -> type[TimeSampler]:
  """The constructor of the time sampler of this name; InputError for an unknown one."""
  samplers: dict[str, type[TimeSampler]] = {
    "importance": Importance,
    "log_normal": LogNormal,
    "logit_normal": LogitNormal,
    "uniform": Uniform,
  }
  return naming.choose("time sampler", name, samplers)


def _check_law(mean: float, std: float) -> None:
  """Raises errors.InputError unless these are of a normal law."""
  if not math.isfinite(mean):
    raise errors.InputError(f"config.diffusion.time_sampler.mean={mean}", "finite")
  errors.require_positive("config.diffusion.time_sampler.std", std)


def _inside(t: Array) -> Array:
  return jnp.clip(t, 1e-5, 1 - 1e-5)
