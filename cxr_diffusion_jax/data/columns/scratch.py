"""The rows of an unfinished column, in a file, in any order, through any kill.

write(rows, values) puts each row at its place; flush() makes them last and only then
marks them done. Opened again with the same plan, what was marked is still done.

  plan.json   what the rows are for; another plan throws the scratch away
  rows.bin    row i at i * row_bytes
  done.bin    one byte a row, 1 when the row is on the disk
"""

import json
import os
import pathlib
import shutil

import numpy as np

from cxr_diffusion_jax import artifacts


class Scratch:
  """See the module.

  Attributes:
    done: bool [n], rows that are written.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    plan: artifacts.JsonMapping,
    num_rows: int,
    row_bytes: int,
    flush_bytes: int,
  ):
    """Opens the folder, or creates it; keeps the rows of a run with the same plan.

    Args:
      plan: JSON values that say what the rows are.
      flush_bytes: `write` flushes after so many bytes: what a kill can lose.
    """
    self.folder = folder
    self._row_bytes = row_bytes
    self._flush_bytes = flush_bytes
    self._unflushed = 0
    text = json.dumps(dict(plan), sort_keys=True, indent=1)
    plan_file = folder / "plan.json"
    if not (plan_file.is_file() and plan_file.read_text(encoding="utf-8") == text):
      shutil.rmtree(folder, ignore_errors=True)
      folder.mkdir(parents=True)
      artifacts.write_text(plan_file, text)
    flags = os.O_RDWR | os.O_CREAT
    self._rows = os.open(folder / "rows.bin", flags, 0o644)
    self._done = os.open(folder / "done.bin", flags, 0o644)
    marks = np.frombuffer(os.pread(self._done, num_rows, 0), np.uint8)
    self.done = np.zeros(num_rows, bool)
    self.done[: len(marks)] = marks == 1

  def __enter__(self) -> "Scratch":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Closes the files."""
    os.close(self._rows)
    os.close(self._done)

  def write(self, rows: np.ndarray, values: np.ndarray) -> None:
    """Writes `values` [k ...] as the rows `rows` [k] int."""
    for row, value in zip(rows.tolist(), values, strict=True):
      _pwrite_all(self._rows, value.tobytes(), row * self._row_bytes)
    self.done[rows] = True
    self._unflushed += values.nbytes
    if self._unflushed >= self._flush_bytes:
      self.flush()

  def take(self, other: "Scratch") -> None:
    """Copies the rows that are done in another scratch of the same plan."""
    for row in np.flatnonzero(other.done & ~self.done).tolist():
      self.write(np.array([row]), np.frombuffer(other.read(row), np.uint8)[np.newaxis])
    self.flush()

  def flush(self) -> None:
    """Puts the rows on the disk, then their marks: a marked row is never lost."""
    os.fsync(self._rows)
    _pwrite_all(self._done, self.done.astype(np.uint8).tobytes(), 0)
    os.fsync(self._done)
    self._unflushed = 0

  def read(self, row: int) -> bytes:
    """The bytes of a row that is done."""
    return os.pread(self._rows, self._row_bytes, row * self._row_bytes)

  def remove(self) -> None:
    """Deletes the folder; afterwards, only `close` may be called."""
    shutil.rmtree(self.folder)


def _pwrite_all(file: int, data: bytes, offset: int) -> None:
  """`os.pwrite` may write less than asked, for instance just before a disk is full."""
  view = memoryview(data)
  while view:
    written = os.pwrite(file, view, offset)
    view, offset = view[written:], offset + written
