"""Samplers that remember earlier estimates: second order for one evaluation a step.

l = log(alpha / sigma), h = l' - l, q = exp(-h) = (sigma' / alpha') / (sigma / alpha)
exact       x' = (sigma' / sigma) x + sigma' int_l^l' exp(s) x0(s) ds
dpm_solver  x0(s) is a line through the last two estimates
unipc       the same, and once the next estimate is there, x' is corrected by it

Primes are the next, less noisy point. Steps from pure noise or to the data have h =
infinity: there a line says nothing, and the last estimate alone is taken (q = 0).
"""

import dataclasses
from typing import ClassVar

from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.diffusion.method import EtaMethod, Method
from cxr_diffusion_jax.diffusion.schedule import Schedule
from cxr_diffusion_jax.diffusion.times import Grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver2M(EtaMethod):
  """DPM-Solver++(2M), Lu et al. 2022 (2211.01095), algorithm 2, and its SDE form.

  With r = h_before / h:  D = x0 + (x0 - x0_before) / (2 r)
  x' = (sigma' / sigma) q^eta x + alpha' (1 - q^(1 + eta)) D
       + sigma' sqrt(1 - q^(2 eta)) fresh

  Attributes:
    eta: 0 follows the ODE, 1 the SDE (the paper's SDE-DPM-Solver++(2M)); >= 0.
    lower_order_final: of fewer than 15 steps the last is of first order, even if it
      does not go to the data itself: steadier with few steps.
  """

  eta: float = 0.0
  lower_order_final: bool = True
  name: ClassVar[str] = "dpm_solver_2m"

  def table(self, schedule: Schedule, grid: Grid) -> dict[str, Array]:
    step, (slope, _) = grid.steps(), _slopes(grid)
    if self.lower_order_final and slope.shape[0] < 15:
      slope = slope.at[-1].set(0)
    shrink = step["shrink"]
    return step | {
      "slope": slope,
      "of_x": step["next_sigma"] / step["sigma"] * shrink**self.eta,
      "of_x0": step["next_alpha"] * (1 - shrink ** (1 + self.eta)),
      "added": step["next_sigma"] * jnp.sqrt(1 - shrink ** (2 * self.eta)),
    }

  def memory(self, x: Array) -> Array:
    """The estimate before, [b ...]."""
    return jnp.zeros_like(x)

  def update(self, step, x, x0, noise, fresh, memory):
    line = x0 + step["slope"] * (x0 - memory)
    x = step["of_x"] * x + step["of_x0"] * line
    return (x if fresh is None else x + step["added"] * fresh), x0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver2MSDE(DPMSolver2M):
  """DPM-Solver++(2M) that follows the SDE."""

  eta: float = 1.0
  name: ClassVar[str] = "dpm_solver_2m_sde"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPC(Method):
  """UniPC of order 2, Zhao et al. 2023 (2302.04867), B(h) = e^h - 1 (bh2), on x0.

  The predictor is DPM-Solver++(2M)'s step. The corrector, which needs no evaluation of
  its own, replaces it by a parabola through the last three estimates:

    x' += alpha' (1 - q) (c1 g (x0_2 - x0_1) + c2 (x0' - x0_1) - w (x0_1 - x0_2))

  g = -h / h_before; w = -g / 2, the predictor's slope, is taken back; with phi_k(z) =
  (phi_{k-1}(z) - 1 / (k-1)!) / z, phi_0 = exp, b1 = phi_2(-h) / phi_1(-h) and
  b2 = 2 phi_3(-h) / phi_1(-h):  c1 = (b1 - b2) g / (g - 1),  c2 = b1 - c1. After the
  first step there is one earlier estimate only, c1 = 0 and c2 = 1 / 2.
  """

  name: ClassVar[str] = "unipc"

  def table(self, schedule: Schedule, grid: Grid) -> dict[str, Array]:
    step, (slope, h) = grid.steps(), _slopes(grid)
    slope = slope.at[-1].set(0)
    phi_1, phi_2, phi_3 = _phis(-jnp.where(jnp.isfinite(h), h, 1.0))
    b1, b2 = phi_2 / phi_1, 2 * phi_3 / phi_1
    g = -2 * slope
    c1 = (b1 - b2) * g / (g - 1)
    c2 = jnp.where(jnp.arange(h.shape[0]) == 0, 0.5, b1 - c1)
    gain = step["next_alpha"] * (1 - step["shrink"])

    def before(value):
      """The value of the step before; 0 for the first."""
      return jnp.concatenate([jnp.zeros(1), value[:-1]])

    return step | {
      "slope": slope,
      "of_x": step["next_sigma"] / step["sigma"],
      "of_x0": gain,
      # The corrector's factors of x0_2 - x0_1 and of x0' - x0_1.
      "correct_before": before(gain * (c1 * g + slope)),
      "correct_now": before(gain * c2),
    }

  def memory(self, x: Array) -> tuple[Array, Array]:
    """The last estimate and the one before it, each [b ...]."""
    return jnp.zeros_like(x), jnp.zeros_like(x)

  def update(self, step, x, x0, noise, fresh, memory):
    last, second = memory
    x = x + step["correct_before"] * (second - last) + step["correct_now"] * (x0 - last)
    line = x0 + step["slope"] * (x0 - last)
    return step["of_x"] * x + step["of_x0"] * line, (x0, last)


def _slopes(grid: Grid) -> tuple[Array, Array]:
  """h / (2 h_before), 0 where either is infinite or there is none before; and h."""
  position = jnp.log(grid.alpha / jnp.where(grid.sigma > 0, grid.sigma, 1.0))
  position = jnp.where(grid.sigma > 0, position, jnp.inf)
  h = position[1:] - position[:-1]
  before = jnp.concatenate([jnp.full(1, jnp.inf), h[:-1]])
  known = jnp.isfinite(h) & jnp.isfinite(before)
  slope = 0.5 * jnp.where(known, h, 0.0) / jnp.where(known, before, 1.0)
  return slope, h


def _phis(z: Array) -> tuple[Array, Array, Array]:
  """phi_1, phi_2 and phi_3 of z [...] < 0, which cancel near 0: a series there."""
  small = jnp.abs(z) < 1.0
  near, far = jnp.where(small, z, 0.0), jnp.where(small, -1.0, z)
  phi_1 = jnp.expm1(far) / far
  phi_2 = (phi_1 - 1) / far
  phi_3 = (phi_2 - 0.5) / far
  series = []
  for k in (1, 2, 3):
    term, total = 1.0, 0.0
    for factor in range(1, k + 1):
      term = term / factor
    for factor in range(k + 1, k + 11):
      total = total + term
      term = term * near / factor
    series.append(total)
  return (
    jnp.where(small, series[0], phi_1),
    jnp.where(small, series[1], phi_2),
    jnp.where(small, series[2], phi_3),
  )
