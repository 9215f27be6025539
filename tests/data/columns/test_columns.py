"""Columns: any order in, row order out, through kills; bad values never get in."""

import collections
import itertools
import json
import os
import pickle
import shutil

from array_record.python import array_record_module
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.columns import column as columns
from tests.data.columns.toy_column import (
  IDS,
  SHAPE,
  VALUES,
  batches_of,
  check_rows,
  content,
  write,
)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_write_column_gives_the_same_bytes_for_any_order(tmp_path, seed):
  plain = write(tmp_path / "a")
  check_rows(plain)
  order = np.random.default_rng(seed).permutation(list(VALUES)).tolist()
  messages = []
  other = write(
    tmp_path / "b",
    batches=batches_of(order, size=5),
    progress=lambda *state: messages.append(state),
  )
  assert content(plain) == content(other)
  assert messages[0] == ("column toy", 0, 27)
  assert ("column toy", 27, 27) in messages
  assert messages[-1] == ("shards of column toy", 27, 27)
  assert not (other.folder / "scratch").exists()


def test_description_survives_reopening(tmp_path):
  assert columns.open_column(tmp_path, "toy") is None
  written = write(tmp_path)
  column = columns.open_column(tmp_path, "toy")
  assert column == written
  about = column.description
  assert (about.name, about.shape, about.dtype) == ("toy", SHAPE, "float16")
  assert (about.encoder, about.standin) == ("toy encoder", True)
  assert column.num_rows == {"test": 7, "train": 20, "validation": 0}
  assert about.missing == {"test": (), "train": (), "validation": ()}
  assert all(column.present(split).all() for split in IDS)
  check_rows(column)
  next(column.folder.glob("test-*")).unlink()
  assert columns.open_column(tmp_path, "toy") is None


def test_is_fresh_depends_on_source_and_ids(tmp_path):
  column = write(tmp_path)
  same = columns.ids_fingerprint({split: IDS[split] for split in reversed(IDS)})
  fresh = {"ids_fingerprint": same, "source_fingerprint": "f0"}
  assert columns.is_fresh(column, **fresh)
  assert not columns.is_fresh(None, **fresh)
  assert not columns.is_fresh(column, **{**fresh, "source_fingerprint": "f1"})
  for other in (
    {**IDS, "train": IDS["train"][::-1]},
    {**IDS, "train": IDS["train"][:-1]},
    {**IDS, "validation": IDS["train"][:1]},
  ):
    changed = columns.ids_fingerprint(other)
    assert not columns.is_fresh(column, **{**fresh, "ids_fingerprint": changed})
  newer = write(tmp_path, fingerprint="f1", shape=(24,), batches=reshaped())
  assert newer.description.fingerprint != column.description.fingerprint
  assert newer.source("test")[0].shape == (24,)


def reshaped():
  for ids, values in batches_of(list(VALUES)):
    yield ids, values.reshape(-1, 24)


def test_write_column_keeps_the_first_of_duplicates_and_counts_them(tmp_path):
  others = {one: value + 1 for one, value in VALUES.items()}
  column = write(
    tmp_path,
    batches=itertools.chain(
      batches_of([*list(VALUES)[:6], *list(VALUES)[:2]], size=8),
      batches_of(list(VALUES)[4:7], values=others),
      batches_of(list(VALUES)[7:]),
    ),
  )
  first = {**VALUES, "00000006_000": others["00000006_000"]}
  check_rows(column, values=first)
  assert column.description.num_duplicates == 4


def test_write_column_ignores_ids_of_no_row(tmp_path):
  more = {**VALUES, "99999999_000": np.ones(SHAPE, np.float32)}
  check_rows(write(tmp_path, batches=batches_of(list(more)[::-1], values=more)))


def test_write_column_refuses_missing_rows_unless_dropped(tmp_path):
  some = [one for one in VALUES if one not in ("00000003_000", "00000025_001")]
  with pytest.raises(
    errors.InputError,
    match=r"2 of 27 rows have no embedding, .*00000025_001.*missing='drop'",
  ):
    write(tmp_path, batches=batches_of(some))
  assert columns.open_column(tmp_path, "toy") is None
  # The rows are there already: the second call need not bring them again.
  column = write(tmp_path, batches=iter(()), missing="drop")
  assert column.description.missing == {
    "test": ("00000025_001",),
    "train": ("00000003_000",),
    "validation": (),
  }
  assert np.flatnonzero(~column.present("train")).tolist() == [3]
  assert np.flatnonzero(~column.present("test")).tolist() == [5]
  with pytest.raises(KeyError, match="row 3 of train has no value"):
    column.source("train")[3]
  assert np.array_equal(
    column.source("train")[4], VALUES["00000004_000"].astype(np.float16)
  )
  assert column == columns.open_column(tmp_path, "toy")


def test_write_column_shows_both_sides_if_no_id_joins(tmp_path):
  strange = {f"img_{i}": np.ones(SHAPE, np.float32) for i in range(5)}

  def stream(wanted):
    kept = [one for one in strange if wanted is None or one in set(wanted.tolist())]
    return batches_of(kept, values=strange)

  for batches in (stream, batches_of(list(strange), values=strange)):
    with pytest.raises(errors.InputError) as caught:
      write(tmp_path, batches=batches, missing="drop")
    for part in ("img_0, img_1, img_2", "00000020_001, 00000021_001", "same stem"):
      assert part in str(caught.value)


@pytest.mark.parametrize(
  ("number", "message"),
  [
    (65536.0, r"1 rows have values beyond 65504, for example 00000002_000.*float32"),
    (np.nan, r"1 rows have values that are NaN or infinite, for example 00000002_000"),
    (-np.inf, r"NaN or infinite"),
  ],
)
def test_write_column_refuses_values_beyond_float16(tmp_path, number, message):
  values = {one: value.copy() for one, value in VALUES.items()}
  values["00000002_000"][1, 2] = number
  with pytest.raises(errors.InputError, match=message):
    write(tmp_path, batches=batches_of(list(values), values=values))
  if number == 65536.0:
    stream = batches_of(list(values), values=values)
    column = write(tmp_path, batches=stream, dtype="float32")
    check_rows(column, values=values, dtype=np.float32)


def test_write_column_refuses_another_shape(tmp_path):
  with pytest.raises(errors.InputError, match=r"4 ids came with values of \[4, 24\]"):
    write(tmp_path, batches=reshaped())


def test_write_column_reports_a_small_disk_first(tmp_path, monkeypatch):
  usage = collections.namedtuple("usage", "total used free")
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 100))
  with pytest.raises(errors.InputError, match=r"0\.0 MB free for column toy"):
    write(tmp_path)


def test_source_is_pickled_and_opens_lazily(tmp_path):
  column = write(tmp_path)
  source = column.source("train")
  assert np.array_equal(source[2], VALUES["00000002_000"].astype(np.float16))
  again = pickle.loads(pickle.dumps(source))
  assert len(again) == 20
  assert np.array_equal(again[2], source[2])
  with pytest.raises(IndexError, match="row 20 of 20"):
    source[20]
  with pytest.raises(KeyError, match="no split 'expert'"):
    column.source("expert")
  shutil.rmtree(column.folder)
  assert len(column.source("train")) == 20


def test_write_column_splits_values_into_shards(tmp_path):
  column = write(tmp_path, shard_bytes=8 * 48)
  assert sorted(path.name for path in column.folder.glob("*.array_record")) == [
    "test-00000.array_record",
    "train-00000.array_record",
    "train-00001.array_record",
    "train-00002.array_record",
  ]
  check_rows(column)


def test_array_records_allow_fast_random_access(tmp_path):
  column = write(tmp_path)
  (path, num_rows), *_ = column.shards("train")
  reader = array_record_module.ArrayRecordReader(str(path))
  assert reader.num_records() == num_rows == 20
  assert "group_size:1," in reader.writer_options_string()
  reader.close()
  messages = json.loads(
    (column.folder / "description.json").read_text(encoding="utf-8")
  )
  assert messages["format"] == 1


def test_files_fingerprint_is_of_content_alone(tmp_path):
  content = bytes(range(256)) * 4096
  a, b = tmp_path / "a", tmp_path / "b"
  a.write_bytes(content)
  b.write_bytes(content)
  os.utime(b, ns=(0, 0))
  assert columns.files_fingerprint([a]) == columns.files_fingerprint([b])
  others = [content + b"x", b"x" + content[1:], content[:-1] + b"x", b""]
  prints = {columns.files_fingerprint([a])}
  for other in others:
    b.write_bytes(other)
    prints.add(columns.files_fingerprint([b]))
  assert len(prints) == 5


def test_write_column_joins_the_rows_of_shares(tmp_path):
  """Three of four processes make their rows; the last call makes the others."""
  asked = []

  def batches(ids):
    asked.append([] if ids is None else ids.tolist())
    return batches_of(asked[-1])

  alone = content(write(tmp_path / "alone"))
  for part in (2, 0, 3, 0):
    assert write(tmp_path / "shared", batches=batches, share=(part, 4)) is None
  # A share that is done is not made again; nobody else sees a column yet.
  assert sorted(map(len, asked)) == [6, 7, 7]
  assert columns.open_column(tmp_path / "shared", "toy") is None
  column = write(tmp_path / "shared", batches=batches)
  assert len(asked.pop()) == 7
  check_rows(column)
  shared = content(column)
  assert shared == alone
  assert not [path for path in column.folder.iterdir() if path.is_dir()]
  # Shares of another source are not taken.
  write(tmp_path / "shared", batches=batches, share=(0, 2), fingerprint="old")
  write(tmp_path / "shared", batches=batches, fingerprint="new")
  assert len(asked.pop()) == 27
