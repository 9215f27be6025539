"""Parts of records: written once, joined in order, whole after any kill."""

import dataclasses
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.records import format as record_format
from cxr_diffusion_jax.data.records import parts, records
from tests.data.record_settings import assert_equal_rows, rows_of

# Runs `prepare_records` with many small parts, and kills itself for good at the call
# of a function that its arguments name; prints whether tensorflow was imported.
CHILD = """
import os, signal, sys
from cxr_diffusion_jax.data import images
from cxr_diffusion_jax.data.records import parts
from cxr_diffusion_jax.data.records import format as record_format
from cxr_diffusion_jax.data.records import records, statistics
from tests.data.record_settings import RecordSettings
root, folder, target, count = sys.argv[1:]
parts.MAX_PART_ROWS = 3
calls = 0
def killing(function):
  def wrapped(*args, **kwargs):
    global calls
    calls += 1
    if calls == int(count):
      os.kill(os.getpid(), signal.SIGKILL)
    return function(*args, **kwargs)
  return wrapped
*path, name = target.split(".")
owner = globals()[path[0]]
for part in path[1:]:
  owner = getattr(owner, part)
setattr(owner, name, killing(getattr(owner, name)))
prepared = records.prepare_records(
  RecordSettings(root=root, folder=folder, image_size=16))
records.RecordSource(prepared, "train")[0]
print("tensorflow" in sys.modules)
"""


def test_prepare_records_resumes_after_a_kill(
  settings, repository, tmp_path, monkeypatch
):
  moments = [
    # while decoding the third part, and inside TFDS's writing of the fifth
    ("images.resize", "8"),
    ("record_format.array_records.write", "3"),
    # between the parts and the index, and between the index and the description
    ("records._finish", "1"),
    ("statistics.image_statistics", "1"),
    ("images.resize", "1000"),
  ]
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  script = tmp_path / "child.py"
  script.write_text(CHILD)
  written, result = [], []
  for target, count in moments:
    done = subprocess.run(
      [sys.executable, script, settings.root, settings.folder, target, count],
      env=os.environ | {"PYTHONPATH": str(repository)},
      capture_output=True,
      text=True,
      check=False,
    )
    written.append(len(list(Path(settings.folder).glob("parts/*"))))
    (first_part,) = Path(settings.folder).glob("parts/train-00000/part.json")
    result.append(first_part.stat().st_mtime_ns)
    killed = (target, count) != moments[-1]
    assert done.returncode == (-9 if killed else 0), done.stderr
    opened = records.open_records(settings)
    assert (opened is None) == killed
  assert done.stdout == "False\n", "no tensorflow was imported, no other word said"
  # Every run went on where the one before had stopped.
  assert written == sorted(written)
  assert written[0] < written[-1]
  assert len(set(result)) == 1
  whole = dataclasses.replace(settings, folder=tmp_path / "whole")
  monkeypatch.setattr(parts, "MAX_PART_ROWS", 3)
  undisturbed = records.prepare_records(whole)
  assert opened == dataclasses.replace(undisturbed, folder=opened.folder)
  assert_equal_rows(rows_of(opened), rows_of(undisturbed))
  files = sorted(path.name for path in Path(settings.folder).iterdir())
  assert files == sorted(path.name for path in (tmp_path / "whole").iterdir())


def test_parts_are_joined_in_row_order(settings, monkeypatch, tmp_path):
  whole = records.prepare_records(settings)
  monkeypatch.setattr(parts, "MAX_PART_ROWS", 3)
  cut = records.prepare_records(dataclasses.replace(settings, folder=tmp_path / "cut"))
  assert len(cut.shards["train"]) > 1
  assert_equal_rows(rows_of(cut), rows_of(whole))


def test_prepare_records_writes_parts_that_tfds_reads(settings):
  import tensorflow_datasets as tfds

  prepared = records.prepare_records(settings)
  ((name, count),) = prepared.shards["train"]
  builder = tfds.builder_from_directory((prepared.folder / name).parent)
  source = builder.as_data_source(split="train")
  assert len(source) == count
  ours = records.RecordSource(prepared, "train")
  for row, image_id in enumerate(prepared.ids("train")):
    example = source[row]
    assert example.pop("id").decode() == image_id
    for key, value in example.items():
      np.testing.assert_array_equal(value, ours[row][key], err_msg=key)


def test_prepare_records_refuses_or_skips_truncated_images(settings, monkeypatch):
  path = next((Path(settings.root) / "original").rglob("00000003_001.png"))
  path.write_bytes(path.read_bytes()[:200])
  with pytest.raises(errors.InputError, match=r"cannot read .*00000003_001\.png"):
    records.prepare_records(settings)
  warnings = []
  monkeypatch.setattr(parts.logging, "warning", lambda *args: warnings.append(args))
  dropping = dataclasses.replace(settings, missing="drop")
  prepared = records.prepare_records(dropping)
  assert prepared.dropped == ("00000003_001",)
  assert "00000003_001.png" in str(warnings[0][1])
  assert [len(rows) for rows in rows_of(prepared).values()] == [
    *prepared.num_rows.values()
  ]
  assert "00000003_001" not in np.concatenate(
    [prepared.ids(split) for split in prepared.num_rows]
  )
  with pytest.raises(errors.InputError, match="first 00000003_001"):
    records.prepare_records(settings)
  # A whole copy of the image makes the records whole.
  Image.new("L", (24, 24)).save(path)
  assert records.prepare_records(settings).dropped == ()


def test_prepare_records_names_or_skips_dead_links(settings):
  path = next((Path(settings.root) / "original").rglob("00000003_001.png"))
  kept = path.rename(path.parents[2] / "kept.png")
  path.symlink_to("/gone/00000003_001.png")
  with pytest.raises(errors.InputError, match=r"00000003_001\.png: .*No such file"):
    records.prepare_records(settings)
  dropping = dataclasses.replace(settings, missing="drop")
  assert records.prepare_records(dropping).dropped == ("00000003_001",)
  assert records.open_records(dropping) is not None
  path.unlink()
  path.symlink_to(kept)
  assert records.prepare_records(settings).dropped == ()


def test_prepare_records_handles_a_part_of_damaged_images(settings, monkeypatch):
  monkeypatch.setattr(parts.logging, "warning", lambda *args: None)
  for path in (Path(settings.root) / "original").rglob("0000000[2]_*.png"):
    path.write_bytes(b"")
  prepared = records.prepare_records(dataclasses.replace(settings, missing="drop"))
  assert prepared.num_rows["expert"] == 0
  assert len(records.RecordSource(prepared, "expert")) == 0
  assert prepared.ids("expert").shape == (0,)


@pytest.mark.parametrize("reason", ["No space left on device", "Disk quota exceeded"])
def test_prepare_records_keeps_parts_on_a_full_disk(settings, monkeypatch, reason):
  class Full:
    def __init__(self, path, options):
      Path(path).touch()

    def write(self, record):
      raise RuntimeError(f"UNKNOWN: write() failed: {reason}")

    def close(self):
      pass

  monkeypatch.setattr(parts, "MAX_PART_ROWS", 3)
  monkeypatch.setattr(parts.images, "in_threads", map)
  result = iter(range(2))
  from array_record.python import array_record_module as module

  whole = module.ArrayRecordWriter
  monkeypatch.setattr(
    module,
    "ArrayRecordWriter",
    lambda *args: (whole if next(result, None) is not None else Full)(*args),
  )
  with pytest.raises(
    errors.InputError, match=f"array_rec.*: {reason}.*fix:.*records_dir"
  ):
    records.prepare_records(settings)
  notes = sorted(Path(settings.folder).glob("parts/*/chest_xrays"))
  before = {path: path.stat().st_mtime_ns for path in notes}
  assert len(before) == 2
  monkeypatch.setattr(module, "ArrayRecordWriter", whole)
  assert sum(records.prepare_records(settings).num_rows.values()) == 20
  assert before == {path: path.stat().st_mtime_ns for path in before}


def test_prepare_shard_makes_every_nth_part_and_prepare_records_joins_them(
  settings, tmp_path, monkeypatch
):
  monkeypatch.setattr(parts, "MAX_PART_ROWS", 3)
  whole = records.prepare_records(settings)
  num_parts = len(list(Path(settings.folder).glob("parts/*")))
  shared = dataclasses.replace(settings, folder=str(tmp_path / "shared"))
  missing = [records.prepare_shard(shared, (part, 2)) for part in (1, 1, 0)]
  assert missing == [num_parts - num_parts // 2] * 2 + [0]
  assert records.open_records(shared) is None
  made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part.json")}
  assert not records.look_whole(shared)
  joined = records.prepare_records(shared)
  assert {path: path.stat().st_mtime_ns for path in made} == made
  assert records.look_whole(shared)
  assert joined.fingerprint == whole.fingerprint
  assert_equal_rows(rows_of(joined), rows_of(whole))
  # Nothing is left to make.
  assert records.prepare_shard(shared, (1, 2)) == 0


@pytest.mark.parametrize("text", ['{"splits": [{}]}', '{"splits": 3}', "{", "[]"])
def test_shards_names_a_damaged_description(tmp_path, text):
  path = tmp_path / record_format.NAME / record_format.VERSION / "dataset_info.json"
  path.parent.mkdir(parents=True)
  path.write_text(text)
  with pytest.raises(errors.InputError, match=r"dataset_info\.json"):
    record_format.shards(tmp_path, "train")
