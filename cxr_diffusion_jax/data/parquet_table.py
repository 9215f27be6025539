"""Parquet files, read as rows of texts.

path -> columns -> cells as a CSV has them: null -> "", True -> "1", a list -> "a|b"
"""

import os

from etils import epath

from cxr_diffusion_jax import errors


def read_rows(path: str | os.PathLike) -> list[tuple[int, list[str]]]:
  """The names of the columns and then all rows, numbered from 1; no row of blanks.

  Raises:
    errors.InputError: no such file, or no parquet file.
  """
  import pyarrow
  from pyarrow import parquet

  def cell(value: object) -> str:
    if isinstance(value, list):
      return "|".join(map(cell, value))
    if value is None or value != value:
      return ""
    return str(int(value) if isinstance(value, bool) else value)

  try:
    with epath.Path(path).open("rb") as file:
      table = parquet.read_table(file)
    columns = [[cell(value) for value in column.to_pylist()] for column in table]
  # What damaged files raise: some texts in them are not UTF-8.
  except (OSError, ValueError, MemoryError, pyarrow.ArrowException) as error:
    raise errors.InputError(
      f"cannot read {os.fspath(path)}: {error}", "a parquet file"
    ) from error
  rows = [list(row) for row in zip(*columns, strict=True)]
  numbered = enumerate([table.column_names, *rows], start=1)
  return [(number, row) for number, row in numbered if any(map(str.strip, row))]
