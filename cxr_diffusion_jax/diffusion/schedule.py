"""How much data and how much noise a sample holds at time t.

x_t = alpha(t) x0 + sigma(t) noise,   t in [0, 1]: 0 is data, 1 is noise
logsnr(t) = 2 log(alpha(t) / sigma(t)), finite everywhere, decreasing

load(name) -> constructor; the paths are in schedule_continuous and schedule_discrete
"""

from typing import Protocol

from jax import Array

from cxr_diffusion_jax import naming
from cxr_diffusion_jax.diffusion.schedule_continuous import (
  EDM,
  VP,
  Cosine,
  RectifiedFlow,
)
from cxr_diffusion_jax.diffusion.schedule_discrete import (
  Linear,
  ScaledLinear,
  SquaredCosine,
)


class Schedule(Protocol):
  """A path from data to noise; every method maps [...] to [...] elementwise."""

  def alpha(self, t: Array | float) -> Array:
    """The factor of the data at time t, in [0, 1], not increasing."""
    ...

  def sigma(self, t: Array | float) -> Array:
    """The factor of the noise at time t, at least 0, increasing."""
    ...

  def logsnr(self, t: Array | float) -> Array:
    """2 log(alpha / sigma) at time t, clipped so that it is finite."""
    ...

  def time_of_logsnr(self, logsnr: Array | float) -> Array:
    """The time at which the path has this logsnr: the inverse of `logsnr`."""
    ...


_SCHEDULES = {
  "cosine": Cosine,
  "edm": EDM,
  "linear": Linear,
  "rectified_flow": RectifiedFlow,
  "scaled_linear": ScaledLinear,
  "squared_cosine": SquaredCosine,
  "vp": VP,
}


def load(name: str) -> type[Schedule]:
  """The constructor of the schedule of this name; InputError for an unknown one."""
  return naming.choose("schedule", name, _SCHEDULES)
