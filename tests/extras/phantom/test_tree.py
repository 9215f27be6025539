"""A phantom tree is a whole NIH tree: every reader reads it, and it can be resumed."""

import csv
import os
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.data.sources import phantom as phantom_source
from cxr_diffusion_jax.data.sources.nih import google_labels, layout, metadata
from cxr_diffusion_jax.extras.phantom import render as phantom
from cxr_diffusion_jax.extras.phantom import tree as phantom_tree

SETTINGS = {"num_images": 48, "size": 32, "seed": 5}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
  root = tmp_path_factory.mktemp("phantoms") / "tree"
  return phantom_tree.write_tree(root, **SETTINGS)


def _contents(root):
  return {
    str(path.relative_to(root)): path.read_bytes()
    for path in sorted(pathlib.Path(root).rglob("*"))
    if path.is_file()
  }


def _lines(path):
  return path.read_text(encoding="utf-8").splitlines()


def test_tree_is_read_by_the_readers_of_real_trees(tree):
  result = layout.find_tree(tree)
  entries = metadata.read_entries(result.data_entry)
  assert len(entries.id) == 48
  assert set(entries.id) == set(result.originals)
  assert set(entries.sex) == {0, 1}
  assert set(entries.view) == {0, 1}
  for row, stem in enumerate(entries.id[:6]):
    facts = phantom_source.read_facts(result.originals[stem])
    assert labels.names_of(entries.findings[row], metadata.FINDINGS) == tuple(
      facts["findings"]
    )
  with Image.open(result.originals[entries.id[0]]) as image:
    assert (image.mode, image.size) == ("L", (32, 32))


def test_tree_has_the_csv_header_of_nih(tree):
  header = _lines(tree / "Data_Entry_2017.csv")[0]
  assert header == (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
    "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
  )


def test_tree_images_are_those_of_the_renderer(tree):
  plan = phantom_tree.make_plan(48, 5)
  path = tree / "original" / "images_001" / "images" / plan.name(7)
  results = phantom.make_phantom(5, 7, size=32, patient=int(plan.patient[7]))
  with Image.open(path) as image:
    np.testing.assert_array_equal(np.asarray(image), results.image)


def test_make_plan_gives_patients_as_many_visits_as_asked_for():
  plan = phantom_tree.make_plan(6000, 0, visits=3.6)
  counts = np.bincount(plan.patient)[1:]
  assert counts.mean() == pytest.approx(3.6, abs=0.2)
  assert counts.min() == 1
  assert (counts > 1).mean() == pytest.approx(1 - 1 / 3.6, abs=0.05)
  # Whole patients are in one list, and their images are numbered from 0.
  for patient in (1, 2, 3, 50):
    rows = plan.patient == patient
    assert len(set(plan.is_test[rows])) == 1
    assert plan.follow_up[rows].tolist() == list(range(counts[patient - 1]))
  default = np.bincount(phantom_tree.make_plan(6000, 0).patient)[1:]
  assert default.mean() == pytest.approx(1.8, abs=0.05)


def test_write_tree_shows_one_body_in_all_visits_of_a_patient(tmp_path):
  tree = phantom_tree.write_tree(tmp_path / "t", num_images=12, size=32, visits=4.0)
  facts = [phantom_source.read_facts(path) for path in sorted(tree.rglob("*.png"))]
  patients = phantom_tree.make_plan(12, 0, visits=4.0).patient
  assert len(set(patients)) < 8
  bodies = {
    (int(patient), one["age"], one["sex"])
    for patient, one in zip(patients, facts, strict=True)
  }
  assert len(bodies) == len(set(patients))
  with pytest.raises(errors.InputError, match="visits"):
    phantom_tree.write_tree(tree, num_images=12, size=32)


def test_read_boxes_of_phantoms_are_in_pixels_of_1024(tree):
  result = layout.find_tree(tree)
  read = metadata.read_boxes(result.boxes)
  entries = metadata.read_entries(result.data_entry)
  rows = list(csv.reader(result.boxes.read_text().splitlines()))
  assert ",".join(rows[0]) == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
  assert "Infiltration" not in {row[1] for row in rows}
  assert "Infiltrate" in {row[1] for row in rows}
  for row, stem in enumerate(entries.id):
    present = entries.findings[row] > 0
    of_image = read.get(str(stem), np.full((14, 4), np.nan))
    np.testing.assert_array_equal(~np.isnan(of_image[:, 0]), present)
  sizes = np.concatenate([value[~np.isnan(value[:, 0])] for value in read.values()])
  assert (sizes[:, 2:] > 0).all()
  assert (sizes[:, :2] + sizes[:, 2:] <= 1.0001).all()
  assert sizes[:, 2:].max() > 0.2


def test_tree_lists_split_whole_patients(tree):
  train_val, test = (
    set(_lines(tree / name)) for name in ("train_val_list.txt", "test_list.txt")
  )
  assert not train_val & test
  assert len(train_val | test) == 48
  assert not {name[:8] for name in train_val} & {name[:8] for name in test}
  assert 0.05 < len(test) / 48 < 0.45


def test_tree_google_labels_agree_with_the_findings(tree):
  result = layout.find_tree(tree)
  expert = google_labels.read_google_labels(result.google_labels)
  findings = {
    stem: phantom_source.read_facts(path)["findings"]
    for stem, path in result.originals.items()
  }
  assert expert.test_ids
  assert set(expert.four_findings) > set(expert.test_ids)
  for stem, values in expert.four_findings.items():
    assert values[0] == 0
    assert values[1] == ("Pneumothorax" in findings[stem])
    assert values[3] == bool({"Mass", "Nodule"} & set(findings[stem]))
  (votes,) = (path for path in result.google_labels if "readers" in path.name)
  assert len(_lines(votes)) == 1 + 3 * len(expert.four_findings)
  test_list = {pathlib.Path(name).stem for name in _lines(tree / "test_list.txt")}
  validation_ids = set(expert.four_findings) - expert.test_ids
  assert not validation_ids & test_list


def test_is_phantom_tree_reads_the_readme(tree):
  text = (tree / "README.md").read_text(encoding="utf-8")
  assert "Phantoms, not patients" in text
  assert "seed 5" in text
  assert phantom_source.is_phantom_tree(tree)


def test_write_tree_does_nothing_twice(tree):
  before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
  messages = []
  phantom_tree.write_tree(
    tree, **SETTINGS, progress=lambda *call: messages.append(call)
  )
  assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before
  assert not messages


def test_interrupted_processes_stop_and_resume(tree, tmp_path):
  def stop(label, done, total):
    raise KeyboardInterrupt

  root = tmp_path / "tree"
  with pytest.raises(KeyboardInterrupt):
    phantom_tree.write_tree(root, **SETTINGS, num_processes=2, progress=stop)
  phantom_tree.write_tree(root, **SETTINGS, num_processes=2)
  assert _contents(root) == _contents(tree)


def test_interrupted_tree_resumes(tree, tmp_path):
  root = tmp_path / "tree"

  def stop(label, done, total):
    if done == 10:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    phantom_tree.write_tree(root, **SETTINGS, progress=stop)
  kept = sorted(root.rglob("*.png"))
  assert len(kept) == 10
  times = [path.stat().st_mtime_ns for path in kept]
  # What a kill in the middle of a file leaves behind.
  next_name = phantom_tree.make_plan(48, 5).name(10)
  kept[0].with_name(next_name + ".part").write_bytes(b"half")
  messages = []
  phantom_tree.write_tree(
    root, **SETTINGS, progress=lambda *call: messages.append(call)
  )
  assert [path.stat().st_mtime_ns for path in kept] == times
  assert messages[0] == ("phantoms", 11, 48)
  assert messages[-1] == ("phantoms", 48, 48)
  contents = _contents(root)
  assert _contents(tree) == contents


def test_write_tree_is_equal_for_any_number_of_processes(tree, tmp_path):
  messages = []
  root = phantom_tree.write_tree(
    tmp_path / "tree",
    **SETTINGS,
    num_processes=2,
    progress=lambda *call: messages.append(call[1]),
  )
  assert _contents(root) == _contents(tree)
  assert messages == list(range(1, 49))


def test_write_tree_reports_a_failing_worker(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "executable", shutil.which("false"))
  with pytest.raises(RuntimeError, match="phantom worker failed: exit code 1"):
    phantom_tree.write_tree(tmp_path / "tree", **SETTINGS, num_processes=2)


def test_write_tree_refuses_other_settings(tree):
  with pytest.raises(errors.InputError, match=r"seed=5; expected seed=6; fix: another"):
    phantom_tree.write_tree(tree, num_images=48, size=32, seed=6)
  with pytest.raises(errors.InputError, match=r"num_images=48, size=32; expected"):
    phantom_tree.write_tree(tree, num_images=4, size=64, seed=5)


def test_write_tree_refuses_another_folder_and_keeps_it(tmp_path):
  (tmp_path / "Data_Entry_2017.csv").write_text("mine")
  with pytest.raises(errors.InputError, match="is no phantom tree"):
    phantom_tree.write_tree(tmp_path, **SETTINGS)
  assert os.listdir(tmp_path) == ["Data_Entry_2017.csv"]


def test_write_tree_refuses_small_numbers(tmp_path):
  with pytest.raises(errors.InputError, match="1 images of 64 pixels"):
    phantom_tree.write_tree(tmp_path / "a", num_images=1, size=64)
  with pytest.raises(errors.InputError, match="of 16 pixels"):
    phantom_tree.write_tree(tmp_path / "a", num_images=8, size=16)


def test_plan_keeps_an_images_patient_when_the_tree_grows():
  small, large = phantom_tree.make_plan(50, 1), phantom_tree.make_plan(500, 1)
  np.testing.assert_array_equal(small.patient, large.patient[:50])
  np.testing.assert_array_equal(small.follow_up, large.follow_up[:50])
  counts = np.bincount(large.patient)[1:-1]
  assert set(counts) == {1, 2, 3, 4}
  assert 0.12 < large.is_test.mean() < 0.28
  for name in ("validation", "test"):
    assert 0.01 < (large.expert == name).mean() < 0.12
  # Some expert test images are in the training list, as NIH's and Google's are.
  assert (large.is_test & (large.expert == "test")).any()
  assert (~large.is_test & (large.expert == "test")).any()


def test_make_plan_has_both_lists_for_small_numbers():
  for num_images in range(2, 12):
    plan = phantom_tree.make_plan(num_images, 0)
    assert plan.is_test.any() == (plan.patient.max() > 1)
    assert not plan.is_test.all()
