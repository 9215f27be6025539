"""Samplers of first order: the next point depends on the last estimate alone.

euler            z = x / (alpha + sigma), s = sigma / (alpha + sigma): z += (n - x0) ds
ddim             x = alpha' x0 + sqrt(sigma'^2 - w^2) n + w fresh
euler_ancestral  x = alpha' (x0 + down n + up fresh)
ddpm             x = the posterior's mean of (x0, x) + its standard deviation fresh

x0 and n are the data and the noise that the denoiser sees in x; primes are the next,
less noisy point; fresh is new noise. As formulas of alpha and sigma, on any path:
Euler is DDIM without fresh noise, and DDPM and Euler-ancestral are DDIM with eta = 1.
Each keeps the name and the equation of its paper.
"""

import dataclasses
from typing import ClassVar

from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.diffusion.method import EtaMethod, Method
from cxr_diffusion_jax.diffusion.schedule import Schedule
from cxr_diffusion_jax.diffusion.times import Grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler(Method):
  """Euler's method on the probability-flow ODE where the path is a straight line.

  For the rectified flow: x += (noise - x0) dt. On other paths the same in scaled
  coordinates, which makes it the deterministic DDIM (Karras et al. 2022, 2206.00364,
  appendix C): a Gaussian's error is O(1 / num_steps).
  """

  name: ClassVar[str] = "euler"

  def update(self, step, x, x0, noise, fresh, memory):
    total = step["alpha"] + step["sigma"]
    next_total = step["next_alpha"] + step["next_sigma"]
    change = step["next_sigma"] / next_total - step["sigma"] / total
    return next_total * (x / total + change * (noise - x0)), memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM(EtaMethod):
  """Song et al. 2020 (2010.02502), eq. 12 and 16, for any alpha and sigma.

  w = eta sigma' sqrt(1 - SNR / SNR'): eta 0 is deterministic, 1 is ancestral sampling
  (DDPM).

  Attributes:
    eta: share of fresh noise in each step, in [0, 1].
  """

  eta: float = 0.0
  name: ClassVar[str] = "ddim"

  def table(self, schedule: Schedule, grid: Grid) -> dict[str, Array]:
    step = grid.steps()
    added = step["next_sigma"] * jnp.sqrt(jnp.maximum(1 - step["shrink"] ** 2, 0))
    added *= self.eta
    kept = jnp.sqrt(jnp.maximum(step["next_sigma"] ** 2 - added**2, 0))
    return step | {"kept": kept, "added": added}

  def update(self, step, x, x0, noise, fresh, memory):
    x = step["next_alpha"] * x0 + step["kept"] * noise
    return (x if fresh is None else x + step["added"] * fresh), memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerAncestral(EtaMethod):
  """Euler's step to less noise than wanted, and fresh noise on top.

  In r = sigma / alpha: up = min(r', eta r' sqrt(1 - (r' / r)^2)), down^2 = r'^2 - up^2.
  The ancestral step of k-diffusion (Crowson 2022), after DDPM.

  Attributes:
    eta: share of fresh noise in each step; >= 0.
  """

  eta: float = 1.0
  name: ClassVar[str] = "euler_ancestral"

  def table(self, schedule: Schedule, grid: Grid) -> dict[str, Array]:
    step = grid.steps()
    ratio = step["next_sigma"] / step["next_alpha"]
    up = jnp.sqrt(jnp.maximum(1 - step["shrink"] ** 2, 0))
    up = ratio * jnp.minimum(self.eta * up, 1)
    down = jnp.sqrt(jnp.maximum(ratio**2 - up**2, 0))
    return step | {"up": up, "down": down}

  def update(self, step, x, x0, noise, fresh, memory):
    scaled = x0 + step["down"] * noise
    scaled = scaled if fresh is None else scaled + step["up"] * fresh
    return step["next_alpha"] * scaled, memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPM(Method):
  """Ancestral sampling, Ho et al. 2020 (2006.11239), eq. 6 and 7, over any steps.

  The posterior of the next point given x and x0. With q = (sigma' / alpha') / (sigma /
  alpha) its mean is alpha' (1 - q^2) x0 + q (sigma' / sigma) x and its standard
  deviation sigma' sqrt(1 - q^2): the smaller of the paper's two variances.
  """

  name: ClassVar[str] = "ddpm"

  @property
  def stochastic(self) -> bool:
    return True

  def table(self, schedule: Schedule, grid: Grid) -> dict[str, Array]:
    step = grid.steps()
    fresh = jnp.maximum(1 - step["shrink"] ** 2, 0)
    return step | {
      "of_x0": step["next_alpha"] * fresh,
      "of_x": step["shrink"] * step["next_sigma"] / step["sigma"],
      "added": step["next_sigma"] * jnp.sqrt(fresh),
    }

  def update(self, step, x, x0, noise, fresh, memory):
    assert fresh is not None
    return step["of_x0"] * x0 + step["of_x"] * x + step["added"] * fresh, memory
