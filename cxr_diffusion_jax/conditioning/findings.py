"""The labels themselves as tokens, without an encoder: the baseline to beat.

  findings [b 14], view [b], sex [b], age [b] --> tokens [b 14 + 3, 43]

Each token has its own entries of 43: a finding one of two (present, absent), view and
sex one of two each, and age eleven overlapping bumps of ten years. The projection that
follows in the denoiser turns them into learned embeddings. What is unknown has no
token. Findings may lie between 0 and 1, which mixes the two embeddings.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base

NUM_FINDINGS = 14
NUM_BUMPS = 11
WIDTH = 2 * NUM_FINDINGS + 2 + 2 + NUM_BUMPS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on findings, view, sex and age, as the records have them."""

  @property
  def needs(self) -> base.Needs:
    return base.Needs()

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    return (
      types.StreamSpec(name="findings", num_tokens=NUM_FINDINGS + 3, width=WIDTH),
    )

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream.

    Args:
      batch: findings [b 14] in [0, 1], nan unknown; view (0 PA, 1 AP) and sex (0 F,
        1 M) [b], -1 unknown; age [b] years, nan unknown.
    """
    findings = jnp.asarray(batch["findings"], jnp.float32)
    present = findings[..., None] * _places(2 * NUM_FINDINGS, 0)[0::2]
    absent = (1 - findings)[..., None] * _places(2 * NUM_FINDINGS, 0)[1::2]
    view = _one_of_two(batch["view"], 2 * NUM_FINDINGS)
    sex = _one_of_two(batch["sex"], 2 * NUM_FINDINGS + 2)
    age = _bumps(batch["age"], 2 * NUM_FINDINGS + 4)
    others = jnp.stack([view, sex, age], axis=1)
    # Unknown is nan so far; a token of zeros is masked.
    tokens = jnp.nan_to_num(jnp.concatenate([present + absent, others], axis=1))
    return (base.stream(tokens),)


def _places(count: int, start: int) -> jax.Array:
  """The unit vectors [count WIDTH] of `count` places from `start` on."""
  return jnp.eye(WIDTH)[start : start + count]


def _one_of_two(values: types.Array, start: int) -> jax.Array:
  """[b] of 0, 1 or -1 -> [b WIDTH]; between 0 and 1 mixes, below 0 gives zeros."""
  values = jnp.asarray(values, jnp.float32)[:, None]
  zero, one = _places(2, start)
  return jnp.where(values < 0, 0, (1 - values) * zero + values * one)


def _bumps(age: types.Array, start: int) -> jax.Array:
  """[b] years -> [b WIDTH]: Gaussians about 0, 10, ..., 100, ten years wide."""
  centres = jnp.linspace(0.0, 100.0, NUM_BUMPS)
  distance = (jnp.asarray(age, jnp.float32)[:, None] - centres) / 10.0
  return jnp.exp(-0.5 * distance**2) @ _places(NUM_BUMPS, start)
