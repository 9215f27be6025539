"""The times at which a sampler evaluates its denoiser, with alpha and sigma at each.

time       even in t:  1, 1 - 1/n, ..., 1/n
logsnr     even in logsnr
karras     even in (sigma / alpha)^(1 / rho)
leading    levels (n - 1) d + offset, ..., d + offset, offset,      d = N // n
trailing   levels N - 1, N - 1 - N/n, ..., N/n - 1
linspace   levels N - 1, ..., 0, evenly
spectrum   even in logsnr from -log(variance) - 5, variance: of the data's first mode

and then the data itself. Level i of a discrete path of N is t = i / N; a continuous
path is taken to have N = 1000 levels, level i at t = (i + 1) / N, so that its last is
pure noise and its first not yet data: what flow matching in diffusers does. The three
spacings of levels are table 2 of Lin et al. 2023 (2305.08891).

A Gaussian mode of variance v is decided around logsnr = -log v. At -log v - 5 the data
are 0.7 % of the variance of x_t along it, so that pure noise is as good as x_t: what is
drawn is 0.3 % short in standard deviation. Steps even in t are sparse there where modes
are strong, as those of large images are: so Esser et al. 2024 (2403.03206, section
5.3.2) and Hoogeboom et al. 2023 (2301.11093) shift them with the image's side. Steps
even in logsnr are those of Lu et al. 2022 (2211.01095).
A value out of its range raises InputError.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.diffusion.process import Process
from cxr_diffusion_jax.diffusion.schedule import Schedule

SPACINGS = (
  "karras",
  "leading",
  "linspace",
  "logsnr",
  "spectrum",
  "time",
  "trailing",
)

# Of 'spectrum': from the logsnr where the first mode is decided to the first time.
MARGIN = 5.0

# Where spacings in logsnr begin at pure noise, unless the data's variance is known.
_NOISE = -10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
  """The points of a path that a sampler goes through, float32, all [num_steps + 1].

  Attributes:
    t: the time that the denoiser is given.
    alpha: the factor of the data there; 1 at the end, where that is the data.
    sigma: the factor of the noise there; 0 at the end, where that is the data.
  """

  t: jax.Array
  alpha: jax.Array
  sigma: jax.Array

  def steps(self) -> dict[str, jax.Array]:
    """Both ends of each step, every entry [num_steps]: t, alpha, sigma, next_t, ...

    `shrink` is (sigma' / alpha') / (sigma / alpha) in [0, 1), primes at the next point.
    """
    ends = {"t": self.t, "alpha": self.alpha, "sigma": self.sigma}
    step = {name: value[:-1] for name, value in ends.items()}
    step |= {f"next_{name}": value[1:] for name, value in ends.items()}
    step["shrink"] = step["alpha"] * step["next_sigma"]
    step["shrink"] /= step["next_alpha"] * step["sigma"]
    return step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
  """The times at which a sampler looks.

  Attributes:
    spacing: one of `SPACINGS`, see above. 'linspace' begins and ends where the levels
      do, 'trailing' begins there and 'leading' ends there.
    shift: warps times to t shift / (1 + (shift - 1) t); above 1 spends more of them on
      high noise, 2403.03206. Not for logsnr, karras and spectrum. On a continuous path,
      'linspace' ends at the warped 1 / 1000, warped once more, as diffusers does.
    start: the first time, in (0, 1]. Below 1 the sampler is given data corrupted to the
      first time, `times(process, num_steps)[0]`, in place of noise: image to image.
      Times are spaced as if levels above it did not exist.
    offset: added to the levels of 'leading': 1 as published for Stable Diffusion.
    skip_last: 'leading' and 'linspace' take one step more and leave out its last level,
      so that the step to the data is as long as the others: what multistep solvers of
      diffusers do.
    whole: on discrete paths the denoiser is given whole levels only, and those of
      'linspace' are rounded to them. Euler and Heun of diffusers do not round.
    rho: of karras, 2206.00364; > 0.
    variance: of the data's first mode, for 'spectrum', taken to be 1 or more; 0 where
      it is unknown: the first logsnr is then -10.
    end: 'data', or 'lowest': the path's own point at t = 0, which keeps the little
      noise that discrete levels and EDM have there (DDIM of Stable Diffusion).
  """

  spacing: str = "time"
  shift: float = 1.0
  start: float = 1.0
  offset: int = 1
  skip_last: bool = False
  whole: bool = True
  rho: float = 7.0
  variance: float = 0.0
  end: str = "data"

  def __post_init__(self):
    naming.check("spacing", self.spacing, SPACINGS)
    naming.check("end of times", self.end, ("data", "lowest"))
    for name in ("shift", "rho"):
      if not getattr(self, name) > 0:
        raise errors.InputError(f"{name}={getattr(self, name)} of times", "above 0")
    if not 0 <= self.variance < math.inf:
      raise errors.InputError(f"variance={self.variance} of times", "0 or more")
    if not 0 < self.start <= 1:
      raise errors.InputError(f"start={self.start} of times", "above 0, at most 1")

  def __call__(self, process: Process, num_steps: int) -> jax.Array:
    """[num_steps + 1] float32, falling from the start to 0.

    Raises:
      InputError: more steps than the path has levels, with a spacing of levels.
    """
    return self.grid(process, num_steps).t

  def grid(self, process: Process, num_steps: int) -> Grid:
    """The times, and alpha and sigma at each; errors are those of `__call__`."""
    schedule = process.schedule
    start = jnp.float32(self.start)
    # At the first time pure noise is as good as the exact x_t.
    first = -math.log(max(self.variance, 1.0)) - MARGIN if self.variance else _NOISE
    if self.spacing == "spectrum":
      start = jnp.minimum(start, schedule.time_of_logsnr(first))
    elif process.prediction == "epsilon":
      # The noise does not determine the data where alpha = 0: start slightly later.
      start = jnp.minimum(start, schedule.time_of_logsnr(_NOISE))
    ratio = None
    if self.spacing == "time":
      even = jnp.linspace(1, 0, num_steps + 1, dtype=jnp.float32)[:-1]
      t = start * self._warped(even)
    elif self.spacing in ("logsnr", "spectrum"):
      first = first if self.spacing == "spectrum" else _NOISE
      t = _even_logsnr(schedule, start, first, num_steps)
    elif self.spacing == "karras":
      t, ratio = self._karras(schedule, start, num_steps)
    else:
      t = jnp.minimum(start, jnp.asarray(self._of_levels(schedule, num_steps)))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if ratio is not None:
      # Exact, whatever the inverse's rounding.
      sigma = sigma.at[1:].set(ratio[1:] * alpha[1:])
      levels = _num_levels(schedule)
      t = jnp.round(t * levels) / levels if levels and self.whole else t
    last = [jnp.zeros(1), jnp.ones(1), jnp.zeros(1)]
    if self.end == "lowest":
      last = [last[0], schedule.alpha(last[0]), schedule.sigma(last[0])]
    return Grid(
      **{
        name: jnp.concatenate([value, end])
        for (name, value), end in zip(
          {"t": t, "alpha": alpha, "sigma": sigma}.items(), last, strict=True
        )
      }
    )

  def _warped(self, t):
    return self.shift * t / (1 + (self.shift - 1) * t)

  def _karras(
    self, schedule: Schedule, start: jax.Array, num_steps: int
  ) -> tuple[jax.Array, jax.Array]:
    """Times and sigma / alpha [num_steps] of Karras et al. 2022, eq. 5."""
    levels = _num_levels(schedule)
    if levels:
      start = jnp.minimum(start, (levels - 1) / levels)
    high = jnp.exp(-0.5 * jnp.maximum(schedule.logsnr(start), -10.0))
    # Of EDM; other paths end there too if they do not end before.
    low = jnp.maximum(jnp.exp(-0.5 * schedule.logsnr(0.0)), 0.002)
    roots = high ** (1 / self.rho), low ** (1 / self.rho)
    ratio = jnp.linspace(*roots, num_steps, dtype=jnp.float32) ** self.rho
    inner = schedule.time_of_logsnr(-2 * jnp.log(ratio[1:]))
    return jnp.concatenate([start[None], inner]), ratio

  def _of_levels(self, schedule: Schedule, num_steps: int) -> np.ndarray:
    """Times [num_steps] float32 of the spacings of levels."""
    discrete = _num_levels(schedule)
    levels = discrete or 1000
    used = round(self.start * levels)
    count = num_steps + self.skip_last * (self.spacing != "trailing")
    if used < count:
      raise errors.InputError(
        f"{count} steps of spacing {self.spacing!r} among {used} levels",
        f"at most {used}",
        "fewer steps, or spacing 'time'",
      )
    first = 0 if discrete else levels * self._warped(1 / levels) - 1
    if self.spacing == "leading":
      level = np.arange(count)[::-1] * (used // count) + self.offset
    elif self.spacing == "trailing":
      level = used - np.arange(count) * (used / count) - 1
    elif count == 1:
      level = np.array([used - 1.0])
    else:
      level = np.linspace(first, used - 1, count)[::-1]
    level = level[:num_steps]
    if not discrete:
      level = level + 1
    elif self.whole or self.spacing == "trailing":
      # Halves round to even before 1 is subtracted, as elsewhere.
      level = np.round(level + 1) - 1 if self.spacing == "trailing" else np.round(level)
    times = self.start * self._warped(level / levels / self.start)
    return np.asarray(times, np.float32)


def _num_levels(schedule: Schedule) -> int:
  """How many levels a discrete path has; 0 for a continuous one."""
  return getattr(schedule, "num_levels", 0)


def _even_logsnr(
  schedule: Schedule, start: jax.Array, first: float, num_steps: int
) -> jax.Array:
  """Times [num_steps] from `start` whose logsnr is even, within [first, 10]."""
  high = jnp.maximum(schedule.logsnr(start), first)
  # Some paths keep a little noise at t = 0: stop short of their end.
  low = jnp.minimum(schedule.logsnr(1e-3), 10.0)
  logsnr = jnp.linspace(high, low, num_steps, dtype=jnp.float32)
  inner = schedule.time_of_logsnr(logsnr[1:])
  return jnp.concatenate([start[None], inner])
