"""Several sources at once: one vocabulary, patients apart, each with its own split."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest

from cxr_diffusion_jax import artifacts, checked_files, errors
from cxr_diffusion_jax.conditioning import findings
from cxr_diffusion_jax.data import captions, dataset_table, splits
from cxr_diffusion_jax.data.records import parts, plan, records
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import base
from cxr_diffusion_jax.run import dataset
from tests.fixtures import corpora

NAN = np.nan


def make_table(**changes) -> base.Table:
  """Three images of two patients with findings A and B."""
  facts = {
    "vocabulary": ("A", "B"),
    "origin": "list.csv",
    "id": np.array(["x", "y", "z"]),
    "patient": np.array([1, 1, 2], np.int32),
    "findings": np.array([[1, 0], [0, NAN], [0, 0]], np.float32),
    "image": ["x.png", None, "z.png"],
    "age": np.full(3, 50, np.float32),
    "sex": np.zeros(3, np.int8),
    "view": np.zeros(3, np.int8),
  }
  return base.Table(**(facts | changes))


@pytest.fixture
def joined(make_tree, tmp_path) -> DataSettings:
  """An NIH tree, CheXpert and PadChest, which has no published split."""
  roots = (
    make_tree(size=16).root,
    corpora.write_chexpert(tmp_path),
    corpora.write_padchest(tmp_path),
  )
  return DataSettings(
    root=",".join(map(str, roots)),
    source="nih+chexpert+padchest",
    image_size=16,
    records_dir=str(tmp_path / "records"),
  )


def test_with_vocabulary_joins_findings_and_their_boxes():
  boxes = np.array([[0.1, 0.1, 0.2, 0.2], [0.5, 0.0, 0.1, 0.1]], np.float32)
  table = make_table(boxes={"x": boxes})
  both = dataset_table.with_vocabulary(table, {"A": "C", "B": "C"})
  assert both.vocabulary == ("C",)
  np.testing.assert_array_equal(both.findings[:, 0], [1, NAN, 0])
  np.testing.assert_allclose(both.boxes["x"], [[0.1, 0.0, 0.5, 0.3]])
  one = dataset_table.with_vocabulary(table, {"A": "", "B": "D"}, ("E", "D"))
  np.testing.assert_array_equal(one.findings[:, 0], [NAN] * 3)
  np.testing.assert_array_equal(one.findings[:, 1], [0, NAN, 0])
  assert np.isnan(one.boxes["x"][0]).all()


def test_join_keeps_patients_names_and_findings_apart():
  first = make_table(
    official=np.array(["train", "train", "test"]), expert_test_ids=frozenset("z")
  )
  second = make_table(
    vocabulary=("B", "C"),
    report={"x": "Clear."},
    boxes={"x": np.ones((2, 4), np.float32)},
  )
  table = dataset_table.join(("one", "two"), (first, second))
  assert table.vocabulary == ("A", "B", "C")
  assert table.id.tolist() == ["x", "y", "z", "two-x", "two-y", "two-z"]
  assert len(set(table.patient.tolist())) == 4
  assert table.patient[0] == table.patient[1]
  np.testing.assert_array_equal(table.findings[0], [1, 0, NAN])
  np.testing.assert_array_equal(table.findings[3], [NAN, 1, 0])
  assert table.report == {"two-x": "Clear."}
  assert np.isnan(table.boxes["two-x"][0]).all()
  assert np.isfinite(table.boxes["two-x"][1:]).all()
  assert table.expert_test_ids == {"z"}
  # The second source is split by its patients, as it would be alone.
  assert table.official is not None
  assert table.official[:3].tolist() == ["train", "train", "test"]
  is_test = splits.hashed_test(second.patient)
  assert (table.official[3:] == np.where(is_test, "test", "train")).all()
  strict = dataset_table.join(("one", "two"), (first, second), split="official")
  assert strict.official is None


def test_a_finding_in_two_spellings_is_one():
  first = make_table(vocabulary=("Lung Mass", "B"))
  second = make_table(vocabulary=("b", "lung_mass"))
  table = dataset_table.join(("one", "two"), (first, second))
  assert table.vocabulary == ("Lung Mass", "B")
  np.testing.assert_array_equal(
    table.findings[[0, 1, 3, 4]], [[1, 0], [0, NAN], [0, 1], [NAN, 0]]
  )
  both = dataset_table.with_vocabulary(first, {"Lung Mass": "b", "B": "B"})
  assert both.vocabulary == ("b",)
  np.testing.assert_array_equal(both.findings[:, 0], [1, NAN, 0])
  with pytest.raises(ValueError, match="in two spellings"):
    make_table(vocabulary=("A", "a"))


def test_join_gives_each_source_validation_patients_where_one_has_them():
  first = make_table(official=np.array(["train", "validation", "test"]))
  many = np.arange(100, dtype=np.int32)
  nothing = np.full(100, -1, np.int8)
  second = make_table(
    id=many.astype(str),
    patient=many,
    findings=np.zeros((100, 2), np.float32),
    image=["x.png"] * 100,
    age=many.astype(np.float32),
    sex=nothing,
    view=nothing,
  )
  table = dataset_table.join(("one", "two"), (first, second), "auto", 0.2)
  parts, counts = np.unique(table.official[3:], return_counts=True)
  assert parts.tolist() == ["test", "train", "validation"]
  assert (counts > [8, 40, 6]).all()
  is_test = splits.hashed_test(many)
  np.testing.assert_array_equal(table.official[3:] == "test", is_test)


def test_read_table_joins_three_corpora(joined):
  table = dataset_table.read_table(joined)
  assert len(table) == 20 + 4 + 4
  single = [
    dataset_table.read_table(dataclasses.replace(joined, root=root, source=source))
    for source, root in zip(joined.source.split("+"), joined.roots, strict=True)
  ]
  vocabulary = tuple(dict.fromkeys(name for one in single for name in one.vocabulary))
  assert table.vocabulary == vocabulary == dataset_table.vocabulary(joined)
  assert len(vocabulary) == 14 + 6 + 6
  start = 0
  for one in single:
    columns = [vocabulary.index(name) for name in one.vocabulary]
    rows = slice(start, start := start + len(one))
    np.testing.assert_array_equal(table.findings[rows][:, columns], one.findings)
    others = np.delete(table.findings[rows], columns, axis=1)
    assert np.isnan(others).all()
  patients = sum(len(np.unique(one.patient)) for one in single)
  assert len(np.unique(table.patient)) == patients


def test_prepare_records_of_several_sources(joined, monkeypatch):
  logged = []
  monkeypatch.setattr(plan.logging, "info", lambda *args: logged.append(args))
  chosen = dataclasses.replace(
    joined, rename="Lung_Opacity=Opacity", vocabulary="Effusion,Opacity"
  )
  prepared = records.prepare_records(chosen)
  assert prepared.vocabulary == ("Effusion", "Opacity") == records.vocabulary(chosen)
  assert sum(prepared.num_rows.values()) == 28
  assert ("%s", "config.data.views leaves out 3 lateral of 31 images") in logged
  note = next(args[1] for args in logged if args[0] == "split %s")
  assert "chexpert: train.csv and valid.csv" in note
  assert "padchest: by patient hash, as it has no published split" in note
  # A second call reads the records, a tree that is gone leaves them usable.
  assert records.open_records(chosen) == prepared
  where = chosen.records_folder.parent.name.rpartition("-")[0]
  assert where == "tree+CheXpert-v1.0-small+padchest"


def test_prepare_records_reads_no_image_of_sources_twice(joined, monkeypatch):
  fresh = records.prepare_records(
    dataclasses.replace(joined, records_dir=f"{joined.records_dir}-other")
  )
  for source, root in zip(joined.source.split("+"), joined.roots, strict=True):
    single = dataclasses.replace(
      joined, source=source, root=root, validation_fraction=0.0
    )
    records.prepare_records(single)
  # An image that changed after that is read.
  changed = next(pathlib.Path(joined.roots[0]).rglob("00000001_000.png"))
  os.utime(changed, ns=(1, 1))
  read = []
  read_image = parts.dicom.read_image
  monkeypatch.setattr(
    parts.dicom, "read_image", lambda path: read.append(path) or read_image(path)
  )
  prepared = records.prepare_records(joined)
  assert read == [os.fspath(changed)]
  assert prepared.fingerprints == fresh.fingerprints
  for split, count in prepared.num_rows.items():
    pairs = (records.RecordSource(one, split) for one in (prepared, fresh))
    for row, other in zip(*pairs, strict=True):
      np.testing.assert_array_equal(row["image"], other["image"])
      count -= 1
    assert not count


def test_records_of_several_sources_name_the_source_of_each_image(joined, monkeypatch):
  made = records.prepare_records(joined)
  assert made.sources == joined.source_names
  table = dataset_table.read_table(joined)
  wanted = dict(zip(table.id.tolist(), table.source.tolist(), strict=True))
  for split in made.num_rows:
    of_split = [wanted[one] for one in made.ids(split).tolist()]
    np.testing.assert_array_equal(made.source(split), of_split)
  read = records.RecordSource(made, "train")
  assert [read[row]["source"] for row in range(len(read))] == list(made.source("train"))
  unknown = captions.without(read[0], ("source",))
  assert unknown["source"] == -1

  # An earlier version did not write it; it is added, and no image is read for that.
  folder = joined.records_folder
  description = checked_files.read_json(folder / "records.json")
  del description["sources"]
  checked_files.write_json(folder / "records.json", description)
  with np.load(folder / "rows.npz") as rows:
    older = {name: rows[name] for name in rows if not name.endswith("/source")}
  artifacts.write_npz(folder / "rows.npz", older)
  opened = records.open_records(joined)
  assert not opened.sources
  assert "source" not in records.RecordSource(opened, "train")[0]
  path = findings.Conditioner(source_token=True, num_sources=3)
  # Without their data, they are used as they are.
  places = [pathlib.Path(root) for root in joined.roots]
  for place in places:
    place.rename(f"{place}-gone")
  with pytest.raises(errors.InputError, match="does not say which source each"):
    dataset.prepare(joined, path.needs)
  for place in places:
    pathlib.Path(f"{place}-gone").rename(place)
  monkeypatch.setattr(parts, "make_parts", None)
  assert records.prepare_records(joined) == made
  np.testing.assert_array_equal(
    records.open_records(joined).source("test"), made.source("test")
  )


def test_data_settings_want_a_root_for_each_source(joined):
  with pytest.raises(errors.InputError, match=r"expected 3 folders"):
    dataclasses.replace(joined, root="one,two")
  assert joined.source_names == ("nih", "chexpert", "padchest")
  two = dataclasses.replace(joined, root="a,b", source="table+table")
  assert two.source_names == ("table", "table2")
  assert two.nih_root is None
  assert joined.nih_root == joined.roots[0]
