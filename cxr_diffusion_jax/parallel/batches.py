"""Batches of few different sizes, so that few programs are compiled.

num_rows --batch_rows--> rows of each batch; the last row fills up the last batch
fn(rows) --in_batches--> outputs of all rows, without those that filled up
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from cxr_diffusion_jax import types


def batch_rows(
  num_rows: int, batch_size: int, *, powers: bool = False, multiple: int = 1
) -> Iterator[tuple[np.ndarray, int]]:
  """Yields the rows of each batch and how many of them count.

  Args:
    batch_size: rows of a batch, a multiple of `multiple`.
    powers: a short batch has the next power of two times `multiple`, where it would
      otherwise have `batch_size`: less work for few rows, more programs to compile.
    multiple: number of devices that share a batch.
  """
  for start in range(0, num_rows, batch_size):
    count, size = min(batch_size, num_rows - start), batch_size
    if powers:
      size = min(size, multiple << (-(-count // multiple) - 1).bit_length())
    yield np.minimum(np.arange(start, start + size), num_rows - 1), count


def in_batches(
  fn: "Callable[[np.ndarray], types.Params]",
  num_rows: int,
  batch_size: int,
  *,
  powers: bool = False,
  multiple: int = 1,
) -> "types.Params":
  """Returns a function's outputs for all rows, at least 1, as numpy arrays.

  `fn` maps rows [b] to an array [b ...], or to a tuple, list or dict of such arrays.
  Other arguments are those of `batch_rows`.
  """
  import jax

  if num_rows < 1:
    raise ValueError("no rows, expected at least one")
  parts = [
    jax.tree.map(lambda values, count=count: np.asarray(values)[:count], fn(rows))
    for rows, count in batch_rows(
      num_rows, batch_size, powers=powers, multiple=multiple
    )
  ]
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
