"""ArrayRecord files: written completely or not at all, with random read access."""

from collections.abc import Iterable, Sequence
import os
import pathlib
from typing import cast

import numpy as np

from cxr_diffusion_jax import artifacts, disk, errors


def write(
  path: str | os.PathLike, records: Iterable[bytes], *, compression: str
) -> None:
  """Writes one file under a temporary name, then renames it.

  Args:
    compression: `uncompressed`, or `zstd:LEVEL`.

  Raises:
    OSError: the disk is full, or the folder cannot be written to.
  """
  # A compiled module without stubs.
  from array_record.python import array_record_module  # pyright: ignore

  partial = f"{os.fspath(path)}{artifacts.SUFFIX}"
  # Groups of one record, so that any record is read without its neighbours.
  options = f"group_size:1,{compression}"
  try:
    writer = array_record_module.ArrayRecordWriter(partial, options)
    try:
      for record in records:
        writer.write(record)
    finally:
      writer.close()
  except RuntimeError as error:
    pathlib.Path(partial).unlink(missing_ok=True)
    if not (code := disk.fault(error)):
      raise
    raise OSError(code, os.strerror(code), os.fspath(path)) from error
  with open(partial, "rb") as file:
    os.fsync(file.fileno())
  os.replace(partial, path)


def open_files(
  files: Sequence[tuple[str | os.PathLike, int]],
) -> Sequence[bytes]:
  """Opens files as one sequence of bytes.

  Args:
    files: (path, number of rows), in order. Knowing the rows, no file is opened before
      it is read.
  """
  # Imported here, as array_record defines absl flags on import.
  from array_record.python import array_record_data_source

  paths = [f"{os.fspath(path)}[0:{num_rows}]" for path, num_rows in files]
  if not paths:
    return ()
  # It implements the part of Sequence that is used here.
  source = array_record_data_source.ArrayRecordDataSource(paths)
  return _Files(cast(Sequence[bytes], source), paths)


class _Files(Sequence[bytes]):
  """The records of files; damage, which the format detects, names the file.

  Args:
    paths: each with its rows at the end, as array_record takes them.
  """

  def __init__(self, source: Sequence[bytes], paths: Sequence[str]):
    self._source, self._paths = source, paths

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, row):
    try:
      return self._source[row]
    except RuntimeError as error:
      ends = np.cumsum([int(path.rpartition(":")[2][:-1]) for path in self._paths])
      path = self._paths[int(np.searchsorted(ends, row, side="right"))]
      raise errors.InputError(
        f"{path.rpartition('[')[0]} is damaged in row {row}: {str(error)[:200]}",
        fix="remove the folder of these records or of this column, and repeat the"
        " command",
      ) from error
