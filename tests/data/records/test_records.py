"""`data.records`: what is in the tree is in the records, after any kill too."""

import dataclasses
import json
import os
from pathlib import Path
import pickle
import shutil
import subprocess
import sys

from etils import epath
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import images
from cxr_diffusion_jax.data.records import parts, plan, records
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources.nih import layout, metadata
from tests.data.record_settings import RecordSettings


@pytest.fixture
def settings(make_tree, tmp_path) -> RecordSettings:
  small = make_tree()
  return RecordSettings(root=small.root, folder=tmp_path / "records", image_size=16)


def rows_of(prepared: records.Records) -> dict[str, list[dict]]:
  sources = {split: records.RecordSource(prepared, split) for split in prepared.shards}
  return {split: list(source) for split, source in sources.items()}


def assert_equal_rows(some: dict[str, list[dict]], other: dict[str, list[dict]]):
  assert {k: len(v) for k, v in some.items()} == {k: len(v) for k, v in other.items()}
  for split in some:
    for row, expected in zip(some[split], other[split], strict=True):
      for name in expected:
        np.testing.assert_array_equal(row[name], expected[name], err_msg=name)


def test_records_hold_what_the_tree_holds(settings):
  prepared = records.prepare_records(settings)
  tree = layout.find_tree(settings.root)
  paths = tree.resolve(16)
  entries = metadata.read_entries(tree.data_entry)
  assert prepared.vocabulary == metadata.FINDINGS
  seen = []
  for split in prepared.num_rows:
    source = records.RecordSource(prepared, split)
    ids = prepared.ids(split)
    fields = prepared.fields(split)
    assert len(source) == len(ids) == prepared.num_rows[split]
    positions = [entries.id.tolist().index(image_id) for image_id in ids]
    assert positions == sorted(positions), "rows are in the CSV's order"
    for row, (position, record) in enumerate(zip(positions, source, strict=True)):
      assert tuple(sorted(record)) == tuple(sorted(records.FIELDS))
      original = images.read_grey(paths[ids[row]])
      expected = images.resize(original, 16)[:, :, np.newaxis]
      np.testing.assert_array_equal(record["image"], expected)
      assert record["row"] == row
      for name in ("findings", "age", "sex", "view", "patient"):
        assert np.array_equal(record[name], getattr(entries, name)[position])
        assert np.array_equal(record[name], fields[name][row])
    seen += positions
  assert sorted(seen) == list(range(len(entries.id)))
  types = {name: value.dtype.name for name, value in record.items()}
  assert types == {
    "image": "uint8",
    "findings": "float32",
    "age": "float32",
    "sex": "int32",
    "view": "int32",
    "patient": "int32",
    "boxes": "float32",
    "expert": "float32",
    "row": "int32",
  }


def test_prepare_records_joins_boxes_and_expert_labels(settings):
  (Path(settings.root) / "BBox_List_2017.csv").write_text(
    "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    "00000001_001.png,Edema,512,256,256,128\n"
  )
  rows = rows_of(records.prepare_records(settings))
  everything = [row for of_split in rows.values() for row in of_split]
  boxed = [row for row in everything if np.isfinite(row["boxes"]).any()]
  assert len(boxed) == 1
  assert boxed[0]["boxes"][3].tolist() == [0.5, 0.25, 0.25, 0.125]
  labelled = [row for row in everything if np.isfinite(row["expert"]).any()]
  assert sorted(int(row["patient"]) for row in labelled) == [1, 2]
  assert all(row["expert"].tolist() == [0, 1, 0, 1] for row in labelled)
  prepared = records.open_records(settings)
  boxes = np.concatenate([prepared.boxes(split) for split in prepared.num_rows])
  assert np.isfinite(boxes).all(axis=2).sum() == 1
  # Patient 2 has an expert test image: both its images are kept from training.
  assert [int(row["patient"]) for row in rows["expert"]] == [2, 2]


def test_prepare_records_does_nothing_twice(settings):
  messages = []
  first = records.prepare_records(
    settings, progress=lambda *args: messages.append(args)
  )
  assert messages[-1] == ("records", 20, 20)
  before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
  messages.clear()
  again = records.prepare_records(
    settings, progress=lambda *args: messages.append(args)
  )
  assert again == first
  assert records.open_records(settings) == first
  assert not messages
  assert before == {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}


def change_csv(root: Path) -> None:
  path = root / "Data_Entry_2017.csv"
  path.write_text(path.read_text().replace(",40,", ",41,"))


def change_lists(root: Path) -> None:
  for name in ("train_val_list.txt", "test_list.txt"):
    (root / name).unlink()


def change_pixels(root: Path) -> None:
  """Another image in a file of the same size: its time alone shows it."""
  path = next((root / "original").rglob("00000003_000.png"))
  old = path.read_bytes()
  Image.fromarray(np.asarray(Image.open(path)).T.copy()).save(path)
  path.write_bytes(path.read_bytes().ljust(len(old), b"\0"))


def change_reports(root: Path) -> None:
  path = root / "Data_Entry_2017.csv"
  header, *rows = path.read_text().splitlines()
  lines = [f"{header}report", *(f"{row}Clear lungs." for row in rows), ""]
  path.write_text("\n".join(lines))


@pytest.mark.parametrize(
  ("change", "differing"),
  [
    (change_csv, {"labels"}),
    (change_lists, {"ids", "labels", "images"}),
    (change_pixels, {"images"}),
    (change_reports, {"labels"}),
  ],
)
def test_prepare_records_remakes_changed_content(settings, change, differing):
  first = records.prepare_records(settings)
  change(Path(settings.root))
  assert records.open_records(settings) is None
  second = records.prepare_records(settings)
  assert second.fingerprint != first.fingerprint
  assert {
    name
    for name in first.fingerprints
    if first.fingerprints[name] != second.fingerprints[name]
  } == differing
  assert records.open_records(settings) == second


def test_prepare_records_remakes_one_part_for_one_label(settings, monkeypatch):
  monkeypatch.setattr(parts, "MAX_PART_ROWS", 3)
  folder = Path(settings.folder)

  def times() -> dict[str, int]:
    notes = sorted(folder.glob("parts/*/part.json"))
    return {note.parent.name: note.stat().st_mtime_ns for note in notes}

  records.prepare_records(settings)
  before = times()
  change_csv(Path(settings.root))
  prepared = records.prepare_records(settings)
  assert len({*times().items()} - {*before.items()}) == 1
  assert 41 in np.concatenate([prepared.fields(s)["age"] for s in prepared.num_rows])


def copy_tree(root: Path) -> Path:
  return Path(shutil.copytree(root, root.parent / "copy", copy_function=shutil.copy))


def kaggle_tree(root: Path) -> Path:
  other = root.parent / "kaggle"
  shutil.copytree(root / "original" / "images_001", other / "images_007")
  for path in [*root.glob("*.csv"), *root.glob("*.txt"), root / "google-labels"]:
    shutil.move(path, other / path.name)
  return other


def compress_again(root: Path) -> Path:
  """The same pixels in files of other sizes."""
  for path in (root / "original").rglob("*.png"):
    Image.open(path).save(path, compress_level=1)
  return root


@pytest.mark.parametrize("move", [copy_tree, kaggle_tree, compress_again])
def test_prepare_records_gives_equal_fingerprints_to_equal_content(
  settings, tmp_path, move
):
  first = records.prepare_records(settings)
  before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("parts/**/*")}
  root = move(Path(settings.root))
  moved = dataclasses.replace(settings, root=root)
  assert records.open_records(moved) == first
  assert records.prepare_records(moved) == first
  assert before == {path: path.stat().st_mtime_ns for path in before}
  remade = records.prepare_records(dataclasses.replace(moved, folder=tmp_path / "new"))
  assert remade == dataclasses.replace(first, folder=remade.folder)


def test_records_are_opened_without_their_dataset(settings, tmp_path):
  first = records.prepare_records(settings)
  Path(settings.root).rename(tmp_path / "elsewhere")
  assert records.open_records(settings) == first
  assert records.prepare_records(settings) == first
  assert records.open_records(dataclasses.replace(settings, resize="pad")) is None


def test_records_of_an_earlier_version_are_made_again(settings):
  first = records.prepare_records(settings)
  path = first.folder / "records.json"
  old, foreign = (first.folder / f"parts-{x}" for x in ("0123456789abcdef", "of-mine"))
  old.mkdir()
  foreign.mkdir()
  path.write_text(json.dumps({"format": 1, "fingerprint": "0123"}))
  assert records.open_records(settings) is None
  assert records.prepare_records(settings) == first
  assert not old.exists()
  assert foreign.exists()


@pytest.mark.parametrize(
  "change",
  [
    {"image_size": 12},
    {"resize": "pad"},
    {"split": "hash"},
    {"validation_fraction": 0.5},
    {"train_on_expert": True},
  ],
)
def test_prepare_records_remakes_for_other_settings(settings, change):
  first = records.prepare_records(settings)
  changed = dataclasses.replace(settings, **change)
  assert records.open_records(changed) is None
  assert records.prepare_records(changed).fingerprint != first.fingerprint
  assert records.open_records(settings) is None


def test_records_whose_files_are_gone_are_not_opened(settings):
  prepared = records.prepare_records(settings)
  (prepared.folder / prepared.shards["train"][0][0]).unlink()
  assert records.open_records(settings) is None
  assert_equal_rows(
    rows_of(records.prepare_records(settings)), rows_of(records.open_records(settings))
  )


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


def test_prepare_records_never_touches_the_network(settings, monkeypatch):
  import socket

  def refuse(*args):
    raise AssertionError(f"a connection to {args}")

  monkeypatch.setattr(socket.socket, "connect", refuse)
  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  assert records.prepare_records(settings).num_rows["test"] == 4


def test_record_source_is_a_sequence_and_is_pickled(settings):
  prepared = records.prepare_records(settings)
  source = records.RecordSource(prepared, "train")
  source[0]
  copy = pickle.loads(pickle.dumps(source))
  for index in (0, len(source) - 1, -1, np.int64(1)):
    np.testing.assert_array_equal(copy[index]["image"], source[index]["image"])
  for index in (len(source), -len(source) - 1):
    with pytest.raises(IndexError, match="in train"):
      source[index]
  with pytest.raises(errors.InputError, match="split 'dev'; expected one of train"):
    records.RecordSource(prepared, "dev")
  with pytest.raises(errors.InputError, match="split 'dev'"):
    prepared.ids("dev")


def test_images_that_are_absent_are_refused_or_skipped(settings, monkeypatch):
  gone = sorted((Path(settings.root) / "original").rglob("*.png"))[:5]
  for path in gone:
    path.unlink()
  message = (
    r"^5 of the 20 images named in .*Data_Entry_2017.csv are absent from .*, first "
    r"00000001_000, 00000001_001, 00000002_000; expected an image for every row; "
    r"fix: .*--config.data.missing=drop$"
  )
  with pytest.raises(errors.InputError, match=message):
    records.prepare_records(settings)
  warnings = []
  monkeypatch.setattr(plan.logging, "warning", lambda *args: warnings.append(args))
  dropping = dataclasses.replace(settings, missing="drop")
  prepared = records.prepare_records(dropping)
  assert len(warnings) == 1
  assert prepared.dropped == tuple(path.stem for path in gone)
  assert sum(prepared.num_rows.values()) == 15
  assert records.open_records(dropping) == prepared
  # What was dropped is an error again for who does not allow it.
  assert records.open_records(settings) is None


def test_prepare_records_refuses_if_no_name_joins(settings):
  path = Path(settings.root) / "Data_Entry_2017.csv"
  header, *rows = path.read_text().splitlines()
  path.write_text("\n".join([header, *(f"9{row}" for row in rows)]))
  for missing in ("error", "drop"):
    with pytest.raises(
      errors.InputError, match=r"20 of the 20 images .* no name joins"
    ):
      records.prepare_records(dataclasses.replace(settings, missing=missing))


def test_images_that_are_all_too_small_are_refused(make_tree, tmp_path):
  small = make_tree(folder="24x24")
  settings = RecordSettings(root=small.root, folder=tmp_path, image_size=32)
  with pytest.raises(errors.InputError, match="or take a size of 24x24/"):
    records.prepare_records(settings)


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


def test_prepare_records_handles_a_part_of_damaged_images(settings, monkeypatch):
  monkeypatch.setattr(parts.logging, "warning", lambda *args: None)
  for path in (Path(settings.root) / "original").rglob("0000000[2]_*.png"):
    path.write_bytes(b"")
  prepared = records.prepare_records(dataclasses.replace(settings, missing="drop"))
  assert prepared.num_rows["expert"] == 0
  assert len(records.RecordSource(prepared, "expert")) == 0
  assert prepared.ids("expert").shape == (0,)


def test_images_outside_the_csv_are_counted(settings, monkeypatch):
  folder = Path(settings.root) / "original"
  for number in range(3):
    Image.new("L", (16, 16)).save(folder / f"stranger_{number}.png")
  warnings = []
  monkeypatch.setattr(plan.logging, "warning", lambda *args: warnings.append(args))
  records.prepare_records(settings)
  assert warnings[0][0] % warnings[0][1:] == (
    f"3 images are not in {settings.root}/Data_Entry_2017.csv"
  )


def test_prepare_records_refuses_an_empty_training_split(settings):
  root = Path(settings.root)
  names = (root / "train_val_list.txt").read_text()
  with (root / "test_list.txt").open("a") as file:
    file.write(names)
  (root / "train_val_list.txt").write_text("someone_else.png\n")
  with pytest.raises(errors.InputError, match=r"none of the 20 images .* in train"):
    records.prepare_records(settings)


def test_prepare_records_refuses_unwritable_folders(settings, tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  bad = dataclasses.replace(settings, folder=tmp_path / "file" / "records")
  with pytest.raises(errors.InputError, match=r"cannot write records to .*file"):
    records.prepare_records(bad)
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  with pytest.raises(errors.InputError, match=r"0\.0 MB free for records"):
    records.prepare_records(settings)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("resize", "stretch"),
    ("split", "random"),
    ("missing", "ignore"),
    ("image_size", 0),
  ],
)
def test_data_settings_refuse_bad_values(name, value):
  with pytest.raises(errors.InputError, match=rf"config\.data\.{name}[ =]{value!r}"):
    DataSettings(**{"root": ".", "image_size": 8, name: value})


def test_official_split_needs_a_list(settings):
  for name in ("train_val_list.txt", "test_list.txt"):
    (Path(settings.root) / name).unlink()
  official = dataclasses.replace(settings, split="official")
  with pytest.raises(errors.InputError, match="lacks its lists"):
    records.prepare_records(official)
  assert records.prepare_records(settings).num_rows["train"] > 0


def test_prepare_records_infers_the_other_official_list(settings):
  both = records.prepare_records(settings)
  (Path(settings.root) / "train_val_list.txt").unlink()
  assert records.open_records(settings) == both
  (Path(settings.root) / "test_list.txt").rename(
    Path(settings.root) / "test_list_NIH.txt"
  )
  assert records.open_records(settings) == both


def test_prepare_records_keeps_parts_on_a_full_disk(settings, monkeypatch):
  class Full:
    def __init__(self, path, options):
      Path(path).touch()

    def write(self, record):
      raise RuntimeError("UNKNOWN: write() failed: No space left on device")

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
  with pytest.raises(errors.InputError, match=r"cannot write .*: No space left .*fix:"):
    records.prepare_records(settings)
  notes = sorted(Path(settings.folder).glob("parts/*/chest_xrays"))
  before = {path: path.stat().st_mtime_ns for path in notes}
  assert len(before) == 2
  monkeypatch.setattr(module, "ArrayRecordWriter", whole)
  assert sum(records.prepare_records(settings).num_rows.values()) == 20
  assert before == {path: path.stat().st_mtime_ns for path in before}


def test_prepare_records_reads_a_dataset_in_a_bucket(settings, tmp_path, bucket):
  local = records.prepare_records(settings)
  root = epath.Path(bucket) / "nih"
  for path in Path(settings.root).rglob("*"):
    if path.is_file():
      target = root / path.relative_to(settings.root).as_posix()
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_bytes(path.read_bytes())
  remote = dataclasses.replace(settings, root=f"{bucket}/nih", folder=tmp_path / "new")
  prepared = records.prepare_records(remote)
  assert prepared == dataclasses.replace(local, folder=prepared.folder)
  assert records.open_records(remote) == prepared


def test_prepare_records_reads_real_images(nih_cxr_mini, tmp_path):
  settings = RecordSettings(root=nih_cxr_mini, folder=tmp_path, image_size=64)
  prepared = records.prepare_records(settings)
  rows = prepared.num_rows
  assert rows["train"] + rows["validation"] + rows["expert"] == 646
  assert rows["test"] == 153
  assert rows["validation"] > 0
  fields = {split: prepared.fields(split) for split in rows}
  patients = [set(of_split["patient"].tolist()) for of_split in fields.values()]
  assert len(set.union(*patients)) == sum(map(len, patients))
  everything = [row for of_split in rows_of(prepared).values() for row in of_split]
  expert = [row for row in everything if np.isfinite(row["expert"]).all()]
  assert len(expert) == 30
  boxed = [row for row in everything if np.isfinite(row["boxes"]).any()]
  assert sum(np.isfinite(row["boxes"]).all(axis=1).sum() for row in boxed) == 45
  assert prepared.statistics["num_images"] == 512
  assert -0.5 < prepared.statistics["mean"] < 0.5
  assert 0.3 < prepared.statistics["std"] < 0.7


def test_prepare_records_reads_real_originals(nih_cxr_mini, tmp_path, monkeypatch):
  monkeypatch.setattr(plan.logging, "warning", lambda *args: None)
  settings = RecordSettings(
    root=nih_cxr_mini, folder=tmp_path, image_size=512, missing="drop"
  )
  prepared = records.prepare_records(settings)
  assert sum(prepared.num_rows.values()) == 14
  assert len(prepared.dropped) == 785
