"""Heun's method: each step's slope is the mean of the slopes at both of its ends.

y = x / (alpha + k sigma), u = sigma / (alpha + k sigma), dy / du = n - k x0
predict   y' = y + (u' - u) slope
correct   y' = y + (u' - u) (slope + slope') / 2

x0 and n are the data and the noise that the denoiser sees in x. k = 0 is EDM's
coordinate sigma / alpha; k = 1 is the straight path's, finite where there is no data.
A value out of its range raises InputError.
"""

import dataclasses
import math
from typing import ClassVar

from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import naming
from cxr_diffusion_jax.diffusion.method import Method
from cxr_diffusion_jax.diffusion.schedule import Schedule
from cxr_diffusion_jax.diffusion.times import Grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(Method):
  """Karras et al. 2022 (2206.00364), algorithm 2; without churn, algorithm 1.

  Two evaluations a step, one in the last, which is Euler's. With churn, each point but
  the first is first raised to (1 + min(churn / num_steps, sqrt(2) - 1)) sigma / alpha
  by fresh noise.

  Attributes:
    coordinate: 'ratio' (k = 0), 'flow' (k = 1), or 'auto': 'ratio' unless the path
      starts with less than 0.01 of data, where steps of sigma / alpha have no bounds.
    churn: the paper's S_churn; >= 0.
    churn_low: least sigma / alpha that is raised, S_tmin.
    churn_high: greatest one, S_tmax.
    churn_noise: factor of the fresh noise, S_noise; a little above 1 where the denoiser
      removes too much noise.
  """

  coordinate: str = "auto"
  churn: float = 0.0
  churn_low: float = 0.0
  churn_high: float = math.inf
  churn_noise: float = 1.0
  name: ClassVar[str] = "heun"
  stages: ClassVar[int] = 2

  def __post_init__(self):
    naming.check("coordinate of heun", self.coordinate, ("auto", "flow", "ratio"))

  @property
  def stochastic(self) -> bool:
    return self.churn > 0

  def table(self, schedule: Schedule, grid: Grid) -> dict[str, Array]:
    """Two rows a step, predict and correct, but one for the last."""
    raised = self._raised(schedule, grid)
    bend = {"flow": 1.0, "ratio": 0.0}.get(self.coordinate)
    if bend is None:
      bend = jnp.where(grid.alpha[0] < 0.01, 1.0, 0.0)
    norm = raised.alpha + bend * raised.sigma
    next_norm = grid.alpha + bend * grid.sigma
    n = grid.t.shape[0] - 1
    index = np.arange(2 * n - 1)
    corrects = index % 2 == 1

    def rows(value):
      return value[index // 2]

    def next_rows(value):
      return value[index // 2 + 1]

    lift = raised.alpha / jnp.where(grid.alpha > 0, grid.alpha, 1.0)
    added = raised.sigma**2 - (lift * grid.sigma) ** 2
    added = self.churn_noise * jnp.sqrt(jnp.maximum(added, 0))
    return {
      "corrects": jnp.asarray(corrects),
      "t": jnp.where(corrects, next_rows(grid.t), rows(raised.t)),
      "alpha": jnp.where(corrects, next_rows(grid.alpha), rows(raised.alpha)),
      "sigma": jnp.where(corrects, next_rows(grid.sigma), rows(raised.sigma)),
      "next_t": jnp.where(corrects, next_rows(raised.t), next_rows(grid.t)),
      "bend": jnp.full(2 * n - 1, bend),
      "norm": rows(norm),
      "next_norm": next_rows(next_norm),
      "change": next_rows(grid.sigma / next_norm) - rows(raised.sigma / norm),
      "lift": jnp.where(corrects, next_rows(lift), 1.0),
      "added": jnp.where(corrects, next_rows(added), 0.0),
    }

  def memory(self, x: Array) -> tuple[Array, Array]:
    """x and the slope at the beginning of the step, each [b ...]."""
    return jnp.zeros_like(x), jnp.zeros_like(x)

  def update(self, step, x, x0, noise, fresh, memory):
    begun, slope_there = memory
    slope = noise - step["bend"] * x0
    begun = jnp.where(step["corrects"], begun, x)
    mean = jnp.where(step["corrects"], 0.5 * (slope_there + slope), slope)
    x = step["next_norm"] * (begun / step["norm"] + step["change"] * mean)
    if fresh is not None:
      x = step["lift"] * x + step["added"] * fresh
    return x, (begun, slope)

  def _raised(self, schedule: Schedule, grid: Grid) -> Grid:
    """The points where steps begin: the grid's own, or noisier ones with churn."""
    if not self.churn:
      return grid
    n = grid.t.shape[0] - 1
    ratio = grid.sigma / jnp.maximum(grid.alpha, 1e-6)
    index = jnp.arange(n + 1)
    wanted = (ratio >= self.churn_low) & (ratio <= self.churn_high)
    wanted &= (index > 0) & (index < n)
    ratio *= 1 + min(self.churn / n, math.sqrt(2) - 1)
    t = schedule.time_of_logsnr(-2 * jnp.log(jnp.where(wanted, ratio, 1.0)))
    alpha = schedule.alpha(t)
    return Grid(
      t=jnp.where(wanted, t, grid.t),
      alpha=jnp.where(wanted, alpha, grid.alpha),
      sigma=jnp.where(wanted, alpha * ratio, grid.sigma),
    )
