"""The labels themselves as tokens, without an encoder: the baseline to beat.

  findings [b k], view [b], sex [b], age [b] --> tokens [b k + 3, 2 k + 15]
  with the source [b] of s joined datasets   --> tokens [b k + 4, 2 k + 15 + s]

Each token has its own entries of 2 k + 15: a finding one of two (present, absent), view
and sex one of two each, and age eleven overlapping bumps of ten years. The projection
that follows in the denoiser turns them into learned embeddings. What is unknown has no
token. Findings may lie between 0 and 1, which mixes the two embeddings.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base

NUM_BUMPS = 11


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on findings, view, sex and age, as the records have them.

  Attributes:
    source_token: give each image's source too, so that scanners and labels of one
      dataset need not be mixed with those of another.
    num_sources: s; of the dataset, with `source_token`.
    shape: (k,), the size of the dataset's vocabulary, which is read where it is ().
  """

  source_token: bool = False
  num_sources: int = 0
  shape: tuple[int, ...] = ()

  @property
  def needs(self) -> base.Needs:
    return base.Needs(sources=self.source_token)

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    (k,) = self.shape
    width = 2 * k + 2 + 2 + NUM_BUMPS + self.num_sources
    num_tokens = k + 3 + (self.num_sources > 0)
    return (types.StreamSpec(name="findings", num_tokens=num_tokens, width=width),)

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream.

    Args:
      batch: findings [b k] in [0, 1], nan unknown; view (0 PA, 1 AP) and sex (0 F,
        1 M) [b], -1 unknown; age [b] years, nan unknown; source [b], -1 unknown.
    """
    (spec,) = self.streams
    places = jnp.eye(spec.width)
    end = 2 * self.shape[0]
    findings = jnp.asarray(batch["findings"], jnp.float32)
    present = findings[..., None] * places[0:end:2]
    absent = (1 - findings)[..., None] * places[1:end:2]
    view = _one_of_two(batch["view"], places[end : end + 2])
    sex = _one_of_two(batch["sex"], places[end + 2 : end + 4])
    end += 4
    others = [view, sex, _bumps(batch["age"], places[end : end + NUM_BUMPS])]
    if self.num_sources:
      # Unknown sources have no entry, so that their row is zeros.
      one_hot = jax.nn.one_hot(batch["source"], self.num_sources)
      others.append(one_hot @ places[end + NUM_BUMPS :])
    others = jnp.stack(others, axis=1)
    # Unknown is nan so far; a token of zeros is masked.
    tokens = jnp.nan_to_num(jnp.concatenate([present + absent, others], axis=1))
    return (base.stream(tokens),)


def _one_of_two(values: types.Array, places: jax.Array) -> jax.Array:
  """[b] of 0, 1 or -1 -> [b width]; between 0 and 1 mixes, below 0 gives zeros."""
  values = jnp.asarray(values, jnp.float32)[:, None]
  zero, one = places
  return jnp.where(values < 0, 0, (1 - values) * zero + values * one)


def _bumps(age: types.Array, places: jax.Array) -> jax.Array:
  """[b] years -> [b width]: Gaussians about 0, 10, ..., 100, ten years wide."""
  centres = jnp.linspace(0.0, 100.0, NUM_BUMPS)
  distance = (jnp.asarray(age, jnp.float32)[:, None] - centres) / 10.0
  return jnp.exp(-0.5 * distance**2) @ places
