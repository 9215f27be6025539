"""Brings the values of a column from any order of ids to their rows.

ids -> row, first value of an id wins; cast to the column's type, nothing lost to
infinity; rows done by an earlier run are not written again.
"""

from collections.abc import Callable, Iterable
import itertools

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.columns import scratch as column_scratch
from cxr_diffusion_jax.progress import Progress

# (ids [k], values [k *shape]) in any order; or, so that finished work need not be done
# again, a function of the ids that are missing (None: all) that returns the same.
Stream = Iterable[tuple[np.ndarray, np.ndarray]]
Batches = Stream | Callable[[np.ndarray | None], Stream]


_NUM_EXAMPLES = 3


def gather(
  scratch: column_scratch.Scratch,
  *,
  name: str,
  ids: np.ndarray,
  shape: tuple[int, ...],
  dtype: str,
  batches: Batches,
  progress: Progress,
) -> tuple[int, list[str]]:
  """Fills the scratch file.

  Args:
    scratch: one row an id.
    name: the column's, for messages.
    ids: '<U' [n] in row order, all different.
    shape: of one row.
    dtype: the column's floating-point type.
    batches: see `Batches`.
    progress: called with the number of finished rows.

  Returns:
    How many values were left out since their id had come before, and some ids that came
    and that no row has.

  Raises:
    InputError: a value has another shape, is not finite or too large for `dtype`.
  """
  row_of = {identifier: row for row, identifier in enumerate(ids.tolist())}
  if len(row_of) != len(ids):
    raise ValueError(f"column {name}: an id has two rows")
  label, num_duplicates = f"column {name}", 0
  strangers: list[str] = []
  seen = np.zeros(len(ids), bool)
  progress(label, int(scratch.done.sum()), len(ids))
  if scratch.done.all():
    return num_duplicates, strangers
  stream = batches(ids[~scratch.done]) if callable(batches) else batches
  for batch_ids, values in stream:
    if values.shape[1:] != shape or len(values) != len(batch_ids):
      raise errors.InputError(
        f"column {name}: {len(batch_ids)} ids came with values of {list(values.shape)}",
        f"one of {list(shape)} an id",
      )
    rows = np.array([row_of.get(one, -1) for one in batch_ids.tolist()], dtype=int)
    first = np.zeros(len(rows), bool)
    first[np.unique(rows, return_index=True)[1]] = True
    known = rows >= 0
    if len(strangers) < _NUM_EXAMPLES:
      strangers.extend(batch_ids[~known][:_NUM_EXAMPLES].tolist())
    new = known & first
    new[known] &= ~seen[rows[known]]
    num_duplicates += int(known.sum() - new.sum())
    seen[rows[new]] = True
    new[known] &= ~scratch.done[rows[known]]
    if new.any():
      kept = values if new.all() else values[new]
      scratch.write(rows[new], _cast(name, batch_ids[new], kept, dtype))
      progress(label, int(scratch.done.sum()), len(ids))
  scratch.flush()
  if callable(batches) and not scratch.done.any():
    # It has none of these ids: see which ones it has.
    streamed = (one for batch_ids, _ in batches(None) for one in batch_ids.tolist())
    strangers = list(itertools.islice(streamed, _NUM_EXAMPLES))
  return num_duplicates, strangers[:_NUM_EXAMPLES]


def _cast(name: str, ids: np.ndarray, values: np.ndarray, dtype: str) -> np.ndarray:
  """`values` [k *shape] as `dtype`; InputError where that makes one infinite."""
  with np.errstate(over="ignore", invalid="ignore"):
    cast = values.astype(dtype)
  finite = np.isfinite(cast).reshape(len(cast), -1).all(axis=1)
  if finite.all():
    return cast
  bad = ~finite
  whole = np.isfinite(values[bad]).all()
  largest = np.finfo(dtype).max
  raise errors.InputError(
    f"column {name}: {bad.sum()} rows have values "
    + (f"beyond {largest:g}" if whole else "that are NaN or infinite")
    + f", for example {', '.join(ids[bad][:3])}",
    f"finite values that {dtype} can hold",
    "scale the embeddings, or store the column as float32"
    if whole
    else "make these rows again, or take them out of the source",
  )
