"""Applies a network to an image too large for it, by blending overlapping tiles.

x --tiles--> fn(tile) --out = sum of w y / sum of w--> the whole

w falls linearly towards a tile's edges over the overlap, along each side.
"""

from collections.abc import Callable
import fractions

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np


def blend(
  fn: Callable[[Array], Array],
  x: Array,
  *,
  tile: int,
  overlap: int,
  scale: fractions.Fraction,
) -> Array:
  """Applies a function of images tile by tile, or once if one tile is enough.

  Args:
    fn: [b t u c] -> [b scale*t scale*u d], with t and u at most `tile`.
    x: [b h w c].
    tile: the side of a tile.
    overlap: least number of pixels that neighbours share. Scaled, it, tile - overlap,
      h and w must be whole numbers.
    scale: factor of a side by `fn`.

  Returns:
    [b scale*h scale*w d].

  Raises:
    ValueError: an overlap of a tile or more.
  """
  if not 0 <= overlap < tile:
    raise ValueError(f"an overlap of {overlap} of tiles of {tile}")
  b, height, width, channels = x.shape
  if max(height, width) <= tile:
    return fn(x)
  t, u = min(height, tile), min(width, tile)
  places = [
    (top, left)
    for top in starts(height, tile, overlap)
    for left in starts(width, tile, overlap)
  ]

  def one(place):
    return fn(jax.lax.dynamic_slice(x, (0, *place, 0), (b, t, u, channels)))

  # One after the other, in the memory of one tile and with one program.
  blocks = jax.lax.map(
    one, tuple(jnp.array(place) for place in zip(*places, strict=True))
  )
  sides = [int(side * scale) for side in (height, width, t, u, overlap)]
  weight = np.outer(_ramp(sides[2], sides[4]), _ramp(sides[3], sides[4]))[..., None]
  whole = jnp.zeros((b, *sides[:2], blocks.shape[-1]), blocks.dtype)
  total = np.zeros((*sides[:2], 1), np.float32)
  for values, (top, left) in zip(blocks, places, strict=True):
    top, left = int(top * scale), int(left * scale)
    part = (slice(top, top + sides[2]), slice(left, left + sides[3]))
    whole = whole.at[:, *part].add(values * weight)
    total[part] += weight
  return whole / total


def starts(side: int, tile: int, overlap: int) -> list[int]:
  """First pixels of the tiles along a side; the last tile ends with the side."""
  return [*range(0, max(side - tile, 0), tile - overlap), max(side - tile, 0)]


def _ramp(side: int, overlap: int) -> np.ndarray:
  """[side] weights in (0, 1] that rise over the overlap from both ends."""
  if not overlap:
    return np.ones(side, np.float32)
  inside = np.arange(side) + 0.5
  nearest = np.minimum(inside, inside[::-1])
  return np.minimum(nearest / overlap, 1.0).astype(np.float32)
