"""Which times a training step looks at.

key, n -> t [n] in (0, 1)

Stratified: one shared offset u and t_i = (u + i / n) mod 1, so that every batch covers
the whole path evenly; each t_i alone is still uniform (Kingma et al. 2021, 2107.00630,
appendix I.1).
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.types import Array


class TimeSampler(Protocol):
  """Draws times for a batch."""

  def __call__(self, key: Array, num: int) -> jax.Array:
    """[num] float32 in (0, 1)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform:
  """Every time is as likely as any other.

  Attributes:
    stratified: spread the times of one batch evenly.
  """

  stratified: bool = True

  def __call__(self, key: Array, num: int) -> jax.Array:
    """[num] float32 in (0, 1)."""
    return _uniform(key, num, self.stratified)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormal:
  """t = sigmoid(mean + std z), z ~ N(0, 1): most often mid-path, where it is hardest.

  Esser et al. 2024 (2403.03206), section 3.1.

  Attributes:
    mean: above 0 leans to noise, below 0 to data.
    std: larger reaches the ends of the path more often; > 0.
    stratified: spread the quantiles of one batch evenly.
  """

  mean: float = 0.0
  std: float = 1.0
  stratified: bool = True

  def __call__(self, key: Array, num: int) -> jax.Array:
    """[num] float32 in (0, 1)."""
    quantile = _uniform(key, num, self.stratified)
    z = jax.scipy.special.ndtri(quantile)
    return jax.nn.sigmoid(self.mean + self.std * z)


def load(name: str) -> type[TimeSampler]:
  """The constructor of the time sampler of this name.

  Raises:
    InputError: no time sampler has this name.
  """
  found = {"uniform": Uniform, "logit_normal": LogitNormal}
  if name not in found:
    raise errors.InputError(f"unknown time sampler {name!r}", f"one of {sorted(found)}")
  return found[name]


def _uniform(key: Array, num: int, stratified: bool) -> jax.Array:
  """[num] uniform, kept off 0 and 1 where the log-ratio and ndtri are infinite."""
  if stratified:
    t = (jax.random.uniform(key) + jnp.arange(num) / num) % 1.0
  else:
    t = jax.random.uniform(key, (num,))
  return jnp.clip(t, 1e-5, 1 - 1e-5)
