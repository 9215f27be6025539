"""Rotary positions in two dimensions: attention depends on differences of places.

(row, column) --x frequencies--> angles;  each pair of channels rotates by its angle

The product of a query rotated by a and a key rotated by b depends only on a - b (Su et
al. 2021, 2104.09864). Half of a head's pairs rotate with the row, half with the column,
at the frequencies for images of Heo et al. 2024 (2403.13298).
"""

from jax import Array
import jax.numpy as jnp
import numpy as np

# The slowest pair's period over the fastest's.
LONGEST = 100.0


def grid_angles(
  grid: tuple[int, int], width: int, spread: tuple[float, float] | None = None
) -> np.ndarray:
  """Angles of the cells of a grid, in row-major order.

  Args:
    grid: (rows, columns).
    width: width of a head; a multiple of 4.
    spread: (rows, columns) of a grid over the same area whose cells are the unit, so
      that maps of different resolution agree on places. None for `grid` itself.

  Returns:
    [rows*columns width/2] float32, in radians.
  """
  pairs = width // 4
  frequencies = LONGEST ** (-np.arange(pairs) / pairs)
  spread = grid if spread is None else spread
  down, right = (
    np.outer((np.arange(cells) + 0.5) * extent / cells, frequencies)
    for cells, extent in zip(grid, spread, strict=True)
  )
  shape = (*grid, pairs)
  angles = np.concatenate(
    [np.broadcast_to(down[:, None], shape), np.broadcast_to(right, shape)], axis=-1
  )
  return angles.reshape(-1, 2 * pairs).astype(np.float32)


def rotate(x: Array, angles: Array) -> Array:
  """Rotates the pairs (i, i + d/2) of each head's channels.

  Args:
    x: [b n h d] queries or keys.
    angles: [n d/2] in radians.

  Returns:
    [b n h d] of x's dtype; lengths are unchanged.
  """
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
