"""Columns: one array a row, in the row order of the records, in ArrayRecord files.

batches in any order --> scratch --> shards --> description.json: a `Column`

The scratch file takes each row at its position, so only one batch is in memory, and it
survives a kill. A second pass turns it into shards; the description is written last and
completes the column.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import shutil
from typing import Literal

import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data import array_records
from cxr_diffusion_jax.data.columns import file as column_file
from cxr_diffusion_jax.data.columns import gather as column_gather
from cxr_diffusion_jax.data.columns import scratch as column_scratch
from cxr_diffusion_jax.data.columns.file import (
  Column,
  ColumnDescription,
  ColumnSource,
  ids_fingerprint,
  is_fresh,
  open_column,
)
from cxr_diffusion_jax.progress import Progress, no_progress

__all__ = (
  "Column",
  "ColumnDescription",
  "ColumnSource",
  "ids_fingerprint",
  "is_fresh",
  "open_column",
  "write_column",
)


def write_column(
  folder: str | os.PathLike,
  *,
  ids: Mapping[str, np.ndarray],
  name: str,
  shape: tuple[int, ...],
  encoder: str,
  standin: bool,
  fingerprint: str,
  batches: column_gather.Batches,
  missing: Literal["error", "drop"] = "error",
  dtype: str = "float16",
  progress: Progress = no_progress,
  flush_bytes: int = 128 << 20,
  shard_bytes: int = 512 << 20,
) -> Column:
  """Writes a column beside the records in `folder`, in place of an older one.

  The same call resumes after a kill. It temporarily needs twice the disk space.

  Args:
    folder: the records' folder.
    ids: the records' ids '<U' [n], each split in row order.
    name: of the column, and of its folder.
    shape: of one row.
    encoder: what made the values, for people to read.
    standin: whether this project's stand-in encoder made them.
    fingerprint: of what the values are made from.
    batches: see `gather.Batches`. Of an id that comes twice the first value is taken;
      ids that no split has are left out.
    missing: 'drop' leaves rows without a value empty, 'error' refuses them.
    dtype: numpy's name of a floating-point type.
    progress: called with the number of rows written.
    flush_bytes: how much of the work a kill may lose.
    shard_bytes: of values in one file, at most.

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
    ids_fingerprint=ids_fingerprint(ids),
    num_rows={split: len(ids[split]) for split in sorted(ids)},
    rows_per_shard=max(1, shard_bytes // _row_bytes(shape, dtype)),
    missing={},
    missing_rows={},
  )
  target = pathlib.Path(folder) / "columns" / name
  all_ids = np.concatenate([ids[split] for split in description.num_rows])
  with (
    artifacts.disk_errors(target),
    _open_scratch(target, description, flush_bytes) as scratch,
  ):
    num_duplicates, strangers = column_gather.gather(
      scratch,
      name=name,
      ids=all_ids,
      shape=description.shape,
      dtype=dtype,
      batches=batches,
      progress=progress,
    )
    _check_missing(name, all_ids, scratch.done, strangers, missing)
    description = dataclasses.replace(
      description,
      num_duplicates=num_duplicates,
      **_missing_of(description.num_rows, all_ids, scratch.done),
    )
    column = Column(folder=target, description=description)
    _publish(column, scratch, progress)
    scratch.remove()
  return column


def _row_bytes(shape: tuple[int, ...], dtype: str) -> int:
  return int(np.prod(shape)) * np.dtype(dtype).itemsize


def _open_scratch(
  target: pathlib.Path, description: ColumnDescription, flush_bytes: int
) -> column_scratch.Scratch:
  """Opens the scratch of this column; other ids or another source start again."""
  num_rows = sum(description.num_rows.values())
  row_bytes = _row_bytes(description.shape, description.dtype)
  plan = {
    key: getattr(description, key)
    for key in ("source_fingerprint", "ids_fingerprint", "dtype", "shape")
  }
  target.mkdir(parents=True, exist_ok=True)
  scratch = column_scratch.Scratch(
    target / "scratch",
    plan=plan,
    num_rows=num_rows,
    row_bytes=row_bytes,
    flush_bytes=flush_bytes,
  )
  # The rows once in the scratch and once in the shards, less what is there already.
  needed = (2 * num_rows - int(scratch.done.sum())) * row_bytes
  free = shutil.disk_usage(target).free
  if free < needed:
    scratch.close()
    raise errors.InputError(
      f"{target} has {free / 1e9:.1f} GB of free disk",
      f"{needed / 1e9:.1f} GB to make column {description.name}",
      "free disk, or put the records on another one",
    )
  return scratch


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


def _missing_of(
  num_rows: dict[str, int], ids: np.ndarray, done: np.ndarray
) -> dict[str, dict[str, tuple]]:
  """The `missing` and `missing_rows` of a description."""
  ends = np.cumsum(list(num_rows.values()))[:-1]
  splits = zip(num_rows, np.split(ids, ends), np.split(done, ends), strict=True)
  missing, missing_rows = {}, {}
  for split, of_split, present in splits:
    missing[split] = tuple(of_split[~present].tolist())
    missing_rows[split] = tuple(np.flatnonzero(~present).tolist())
  return {"missing": missing, "missing_rows": missing_rows}


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
      _write_shard(waiting / path.name, scratch, range(row, row + num_rows))
    row += num_rows
    progress(label, row, total)
  column_file.remove_column(column.folder)
  for path, _ in shards:
    os.replace(waiting / path.name, path)
  column_file.write_description(column.folder, column.description)


def _write_shard(
  path: pathlib.Path, scratch: column_scratch.Scratch, rows: range
) -> None:
  """Writes one shard, whole or not at all; rows without a value become empty."""
  array_records.write(
    path,
    (scratch.read(row) if scratch.done[row] else b"" for row in rows),
    # Embeddings hardly compress (measured: 8 % smaller, a third of the read rate).
    compression="uncompressed",
  )
