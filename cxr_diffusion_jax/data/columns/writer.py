"""Writes a column from values that come in any order of ids.

batches in any order --> scratch --> shards --> description.json: a `Column`

The scratch file takes each row at its position, so only one batch is in memory, and it
survives a kill. A second pass turns it into shards; the description is written last and
completes the column.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import itertools
import os
import pathlib
import shutil
from typing import Literal

import numpy as np

from cxr_diffusion_jax import disk, errors
from cxr_diffusion_jax.data import array_records
from cxr_diffusion_jax.data.columns import column as column_lib
from cxr_diffusion_jax.data.columns import scratch as column_scratch
from cxr_diffusion_jax.data.columns.column import Column, ColumnDescription
from cxr_diffusion_jax.progress import Progress, no_progress

# (ids [k], values [k *shape]) in any order; or, so that finished work need not be done
# again, a function of the ids that are missing (None: all) that returns the same.
Stream = Iterable[tuple[np.ndarray, np.ndarray]]
Batches = Stream | Callable[[np.ndarray | None], Stream]

_NUM_EXAMPLES = 3

# Folders of rows that other processes have made: `share-FIRST-COUNT`.
_SHARE = "share-"


def write_column(
  folder: str | os.PathLike,
  *,
  ids: Mapping[str, np.ndarray],
  name: str,
  shape: tuple[int, ...],
  encoder: str,
  standin: bool,
  fingerprint: str,
  batches: Batches,
  missing: Literal["error", "drop"] = "error",
  dtype: str = "float16",
  progress: Progress = no_progress,
  flush_bytes: int = 128 << 20,
  shard_bytes: int = 512 << 20,
  share: tuple[int, int] = (0, 1),
) -> Column | None:
  """Writes a column beside the records in `folder`, in place of an older one.

  The same call resumes after a kill. It temporarily needs twice the disk space.

  Several processes each make a share first; the same call without `share` then makes
  the column of their rows, and of rows that none has made.

  Args:
    ids: the records' ids '<U' [n], each split in row order.
    encoder: what made the values, for people to read.
    standin: whether this project's stand-in encoder made them.
    fingerprint: of what the values are made from.
    batches: of an id that comes twice the first value is taken; ids that no split has
      are left out.
    missing: 'drop' leaves rows without a value empty, 'error' refuses them.
    dtype: numpy's name of a floating-point type.
    flush_bytes: how much of the work a kill may lose.
    shard_bytes: of values in one file, at most.
    share: (p, n): make the pth of n blocks of rows, not the column.

  Returns:
    The column; None for a share.

  Raises:
    InputError: no id joins; rows lack a value and `missing` is 'error'; values have
      another shape, are not finite or too large for `dtype`; the disk is too small.
  """
  description = ColumnDescription(
    name=name,
    shape=tuple(shape),
    dtype=dtype,
    encoder=encoder,
    standin=standin,
    source_fingerprint=fingerprint,
    ids_fingerprint=column_lib.ids_fingerprint(ids),
    num_rows={split: len(ids[split]) for split in sorted(ids)},
    rows_per_shard=1,
    missing={},
    missing_rows={},
  )
  description = dataclasses.replace(
    description, rows_per_shard=max(1, shard_bytes // description.row_bytes)
  )
  target = pathlib.Path(folder) / "columns" / name
  all_ids = np.concatenate([ids[split] for split in description.num_rows])
  part, parts = share
  own = np.zeros(len(all_ids), bool)
  own[len(own) * part // parts : len(own) * (part + 1) // parts] = True
  with (
    disk.reporting(target),
    _open_scratch(target, description, flush_bytes, own) as scratch,
  ):
    for folder in sorted(target.glob(f"{_SHARE}*")) if parts == 1 else ():
      with _scratch(folder, description, 0) as other:
        scratch.take(other)
    num_duplicates, strangers = _gather(
      scratch, description, all_ids, own, batches, progress
    )
    if parts > 1:
      return None
    _check_missing(name, all_ids, scratch.done, strangers, missing)
    description = dataclasses.replace(
      description,
      num_duplicates=num_duplicates,
      **column_lib.missing_of(description.num_rows, all_ids, scratch.done),
    )
    column = Column(folder=target, description=description)
    _publish(column, scratch, progress)
    for folder in target.glob(f"{_SHARE}*"):
      shutil.rmtree(folder)
    scratch.remove()
  return column


def _open_scratch(
  target: pathlib.Path,
  description: ColumnDescription,
  flush_bytes: int,
  own: np.ndarray,
) -> column_scratch.Scratch:
  """Opens the scratch of some rows; other ids or another source start again."""
  target.mkdir(parents=True, exist_ok=True)
  first, num_rows = int(own.argmax()), int(own.sum())
  name = "scratch" if own.all() else f"{_SHARE}{first}-{num_rows}"
  scratch = _scratch(target / name, description, flush_bytes)
  try:
    # The rows once in the scratch and once in the shards, less what is there already.
    disk.check_room(
      target,
      (2 * num_rows - int(scratch.done[own].sum())) * description.row_bytes,
      f"column {description.name}",
      "free disk, or put the records on another one",
    )
  except errors.InputError:
    scratch.close()
    raise
  return scratch


def _scratch(
  folder: pathlib.Path, description: ColumnDescription, flush_bytes: int
) -> column_scratch.Scratch:
  keys = ("source_fingerprint", "ids_fingerprint", "dtype", "shape")
  return column_scratch.Scratch(
    folder,
    plan={key: getattr(description, key) for key in keys},
    num_rows=sum(description.num_rows.values()),
    row_bytes=description.row_bytes,
    flush_bytes=flush_bytes,
  )


def _gather(
  scratch: column_scratch.Scratch,
  description: ColumnDescription,
  ids: np.ndarray,
  own: np.ndarray,
  batches: Batches,
  progress: Progress,
) -> tuple[int, list[str]]:
  """Fills the scratch's own rows; those of an earlier run are not written again.

  Returns:
    How many values were left out since their id had come before, and some ids that came
    and that no row has.
  """
  label, shape = f"column {description.name}", description.shape
  row_of = {identifier: row for row, identifier in enumerate(ids.tolist())}
  if len(row_of) != len(ids):
    raise ValueError(f"{label}: an id has two rows")
  strangers: list[str] = []
  num_duplicates, seen = 0, np.zeros(len(ids), bool)
  row_of = {identifier: row for identifier, row in row_of.items() if own[row]}
  progress(label, int(scratch.done[own].sum()), len(row_of))
  if scratch.done[own].all():
    return 0, []
  for batch_ids, values in (
    batches(ids[own & ~scratch.done]) if callable(batches) else batches
  ):
    if values.shape[1:] != shape or len(values) != len(batch_ids):
      raise errors.InputError(
        f"{label}: {len(batch_ids)} ids came with values of {list(values.shape)}",
        f"one of {list(shape)} an id",
      )
    rows = np.array([row_of.get(one, -1) for one in batch_ids.tolist()], dtype=int)
    first = np.zeros(len(rows), bool)
    first[np.unique(rows, return_index=True)[1]] = True
    known = rows >= 0
    strangers.extend(batch_ids[~known][: _NUM_EXAMPLES - len(strangers)].tolist())
    new = known & first
    new[known] &= ~seen[rows[known]]
    num_duplicates += int(known.sum() - new.sum())
    seen[rows[new]] = True
    new[known] &= ~scratch.done[rows[known]]
    if new.any():
      kept = values if new.all() else values[new]
      scratch.write(rows[new], _cast(label, batch_ids[new], kept, description.dtype))
      progress(label, int(scratch.done[own].sum()), len(row_of))
  scratch.flush()
  if callable(batches) and not scratch.done.any():
    # It has none of these ids: see which ones it has.
    streamed = (one for batch_ids, _ in batches(None) for one in batch_ids.tolist())
    strangers = list(itertools.islice(streamed, _NUM_EXAMPLES))
  return num_duplicates, strangers


def _cast(label: str, ids: np.ndarray, values: np.ndarray, dtype: str) -> np.ndarray:
  """`values` [k *shape] as `dtype`; InputError where that makes one infinite."""
  with np.errstate(over="ignore", invalid="ignore"):
    cast = values.astype(dtype)
  bad = ~np.isfinite(cast).reshape(len(cast), -1).all(axis=1)
  if not bad.any():
    return cast
  if np.isfinite(values[bad]).all():
    what = f"beyond {np.finfo(dtype).max:g}"
    fix = "scale the embeddings, or store the column as float32"
  else:
    what = "that are NaN or infinite"
    fix = "make these rows again, or take them out of the source"
  raise errors.InputError(
    f"{label}: {bad.sum()} rows have values {what}, for example"
    f" {', '.join(ids[bad][:3])}",
    f"finite values that {dtype} can hold",
    fix,
  )


def _check_missing(
  name: str,
  ids: np.ndarray,
  done: np.ndarray,
  strangers: list[str],
  missing: Literal["error", "drop"],
) -> None:
  """Raises InputError when no row has a value, or when one has none and may not."""
  lacking = int((~done).sum())
  if len(ids) and not done.any():
    raise errors.InputError(
      f"column {name}: no id of the embeddings"
      f" ({', '.join(strangers) or 'none came'}) is an id of the records"
      f" ({', '.join(ids[:3])})",
      "file names with the same stem",
      "check that the embeddings are of these images",
    )
  if lacking and missing == "error":
    raise errors.InputError(
      f"column {name}: {lacking} of {len(ids)} rows have no embedding, for example"
      f" {', '.join(ids[~done][:3])}",
      "one each",
      "add the missing files, or set config.data.missing='drop'",
    )


def _publish(
  column: Column, scratch: column_scratch.Scratch, progress: Progress
) -> None:
  """Turns the scratch into shards, then these into the column.

  The shards wait in the scratch folder until all are there, so that an older column
  stays usable till then; one that a kill left half moved is made again.
  """
  waiting = scratch.folder / "shards"
  waiting.mkdir(exist_ok=True)
  shards = [one for split in column.num_rows for one in column.shards(split)]
  label, row = f"shards of column {column.description.name}", 0
  total = sum(column.num_rows.values())
  for path, num_rows in shards:
    if not (waiting / path.name).is_file():
      rows = range(row, row + num_rows)
      array_records.write(
        waiting / path.name,
        (scratch.read(row) if scratch.done[row] else b"" for row in rows),
        # Embeddings hardly compress (measured: 8 % smaller, a third of the read rate).
        compression="uncompressed",
      )
    row += num_rows
    progress(label, row, total)
  column_lib.remove_column(column.folder)
  for path, _ in shards:
    os.replace(waiting / path.name, path)
  column_lib.write_description(column.folder, column.description)
