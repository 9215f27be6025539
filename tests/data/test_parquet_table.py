"""Parquet files give the rows that a CSV would have."""

import pyarrow
from pyarrow import parquet
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table, parquet_table


def test_read_rows_writes_cells_as_a_csv_has_them(tmp_path):
  columns = {
    "image": ["a.png", "b.png", ""],
    "findings": [["Edema", "Mass"], None, []],
    "age": [61.5, float("nan"), None],
    "edema": [True, False, None],
    "patient": [1, 2, None],
  }
  path = tmp_path / "rows.parquet"
  parquet.write_table(pyarrow.table(columns), path)
  expected = [
    (1, ["image", "findings", "age", "edema", "patient"]),
    (2, ["a.png", "Edema|Mass", "61.5", "1", "1"]),
    (3, ["b.png", "", "", "0", "2"]),
  ]
  assert parquet_table.read_rows(path) == expected == csv_table.read_rows(path)


def test_read_rows_refuses_damaged_files(tmp_path):
  path = tmp_path / "rows.parquet"
  parquet.write_table(pyarrow.table({"image": ["\xe4.png"] * 9}), path)
  whole = path.read_bytes()
  # Whole, cut, and with a name that is not UTF-8.
  for content in (b"", whole[:-9], whole.replace(b"\xc3\xa4", b"\xff\xff")):
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match=r"cannot read .*rows\.parquet"):
      parquet_table.read_rows(path)
