"""`data.records`: what is in the tree is in the records; others are made again."""

import dataclasses
import json
from pathlib import Path
import pickle
import shutil

from etils import epath
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import checked_files, errors
from cxr_diffusion_jax.data import images
from cxr_diffusion_jax.data.records import parts, records
from cxr_diffusion_jax.data.sources.nih import layout, metadata
from tests.data.record_settings import RecordSettings, assert_equal_rows, rows_of


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


@pytest.mark.parametrize(
  "change", [{"statistics": None}, {"num_rows": {"train": 2.0}}, {"shards": "x"}]
)
def test_open_records_names_a_description_of_other_types(settings, change):
  path = records.prepare_records(settings).folder / "records.json"
  description = checked_files.read_json(path) | change
  values = {key: value for key, value in description.items() if value is not None}
  checked_files.write_json(path, values)
  with pytest.raises(errors.InputError, match=r"records\.json is absent or damaged"):
    records.open_records(settings)
