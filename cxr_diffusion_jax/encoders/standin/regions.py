"""Patch states of a vision model, and 32 fixed regions to pool them over.

  tokens [n 1+g*g d] --drop the class token, normalise--> states [n g*g d]
  states --regions [32 g*g]--> [n 32 d]

The regions replace the 32 queries of ELIXR-B's Q-Former (2308.01317): the whole
image, its two sides, and grids of 2x2, 3x3 and 4x4 (1 + 2 + 4 + 9 + 16 = 32).
"""

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import types


def patch_states(tokens: types.Array) -> jax.Array:
  """Normalises each patch's state to mean 0 and variance 1 over its features.

  Without this a few features of a residual stream hold most of its variance. The class
  token, the first of `tokens` [n 1+g*g d], is dropped: [n g*g d] float32.
  """
  patches = jnp.asarray(tokens[:, 1:], jnp.float32)
  mean = patches.mean(axis=-1, keepdims=True)
  return (patches - mean) / jnp.sqrt(patches.var(axis=-1, keepdims=True) + 1e-5)


def region_weights(grid: int) -> np.ndarray:
  """Returns the 32 regions of `grid` x `grid` patches: [32 g*g] float32, rows sum to 1.

  A patch that lies across a border counts in each region by the part within it. Row 0
  is the whole image.
  """
  pieces = [(1, 1), (1, 2), (2, 2), (3, 3), (4, 4)]
  regions = [
    np.outer(row, column).ravel()
    for rows, columns in pieces
    for row in _intervals(rows, grid)
    for column in _intervals(columns, grid)
  ]
  return np.asarray(regions, np.float32)


def _intervals(count: int, grid: int) -> np.ndarray:
  """Returns averages over `count` equal intervals of a line of patches, [count g]."""
  edges = np.linspace(0, grid, count + 1)
  patches = np.arange(grid)
  ends = np.minimum(edges[1:, None], patches + 1)
  starts = np.maximum(edges[:-1, None], patches)
  overlap = np.maximum(ends - starts, 0)
  return overlap / overlap.sum(axis=1, keepdims=True)
