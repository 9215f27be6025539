"""`data/csv_table.py`: tables as office programs save them read alike, or are named."""

import codecs
import gzip

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table

TABLE = "image,note\na.png,Größe\nb.png,\n"
ROWS = [(1, ["image", "note"]), (2, ["a.png", "Größe"]), (3, ["b.png", ""])]


@pytest.fixture
def write(tmp_path):
  def write(content: bytes | str):
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path

  return write


@pytest.mark.parametrize(
  "content",
  [
    TABLE.encode("utf-8-sig"),
    TABLE.encode("utf-16"),
    codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be"),
    TABLE.encode("utf-32"),
    TABLE.replace("\n", "\r\n").encode(),
    TABLE.replace("\n", "\r").encode(),
    TABLE.replace(",", ";").encode(),
    TABLE.replace(",", "\t").encode("utf-16"),
    '"image,note"\n"a.png,Größe"\n"b.png,"\n'.encode(),
    '"image";"note"\n"a.png";"Größe"\n"b.png";""\n'.encode(),
  ],
  ids=[
    *("utf-8 mark", "utf-16", "utf-16 big", "utf-32", "windows", "old mac"),
    *("semicolons", "tabs", "whole rows in quotes", "cells in quotes"),
  ],
)
def test_read_rows_reads_what_office_programs_save(write, content):
  assert csv_table.read_rows(write(content)) == ROWS


def test_read_rows_reads_the_separator_that_excel_names(write):
  rows = csv_table.read_rows(write("sep=|\r\nimage|a,b;c\r\nx|y\r\n"))
  assert rows == [(2, ["image", "a,b;c"]), (3, ["x", "y"])]


def test_read_rows_leaves_blank_rows_out_and_counts_lines(write):
  text = 'image,note\n\n,,\n"a\nb",1\n , \nc,2\n,,,\n'
  rows = csv_table.read_rows(write(text))
  assert rows == [(1, ["image", "note"]), (4, ["a\nb", "1"]), (7, ["c", "2"])]
  table = csv_table.read_table(write(text), {"image": ("image",)}, {})
  assert table.column("image") == ["a\nb", "c"]


def test_read_table_splits_no_name_but_that_of_two_columns(write):
  names = {name: (name,) for name in ("image", "mass")}
  text = 'image,"Edema, severe",Mass\na.png,1,0,\nb.png,0,1,\n'
  assert csv_table.read_table(write(text), names, {}).column("mass") == ["0", "1"]
  with pytest.raises(errors.InputError, match="line 2 has 4 cells; expected 3"):
    csv_table.read_table(write(text.replace("0,\n", "0,x\n")), names, {})
  text = 'image,"Size[w,h]",Mass\na.png,9,8,1,\nb.png,9,8,0,\n'
  assert csv_table.read_table(write(text), names, {}).column("mass") == ["1", "0"]


def test_read_rows_unpacks_gzip(write, monkeypatch):
  packed = gzip.compress(TABLE[:20].encode()) + gzip.compress(TABLE[20:].encode())
  assert csv_table.read_rows(write(packed)) == ROWS
  with pytest.raises(errors.InputError, match=r"table\.csv: its end is missing"):
    csv_table.read_rows(write(packed[:-9]))
  monkeypatch.setattr(csv_table, "MAX_BYTES", len(TABLE))
  with pytest.raises(errors.InputError, match="it holds more than 0 MB"):
    csv_table.read_rows(write(packed))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (TABLE.encode("cp1252"), r"table\.csv line 2 is not text in UTF-8: byte 0xf6.*-f"),
    (TABLE.encode("utf-16-le"), r"table\.csv line 1 has zero bytes.*byte-order mark"),
    (b"\x00\x05\x16\x07\x00Mac OS X\xb0", r"table\.csv line 1 has zero bytes"),
    ('a,b\n1,2\n3,"4\n5,6\n', r"table\.csv line 3 has a quote that is never closed"),
    ("a,b\n1," + "2" * 200_000, r"table\.csv line 2 cannot be read: field larger"),
  ],
  ids=["cp1252", "utf-16 without mark", "AppleDouble", "open quote", "long cell"],
)
def test_read_rows_names_file_and_line(write, content, message):
  with pytest.raises(errors.InputError, match=message):
    csv_table.read_rows(write(content))
