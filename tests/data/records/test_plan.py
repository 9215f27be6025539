"""What is joined and split before any image is read; what is refused then."""

import dataclasses
from pathlib import Path
import shutil

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.records import plan, records
from tests.data.record_settings import RecordSettings


def test_prepare_records_refuses_or_skips_absent_images(settings, monkeypatch):
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


def test_prepare_records_refuses_images_that_are_too_small(make_tree, tmp_path):
  small = make_tree(folder="24x24")
  settings = RecordSettings(root=small.root, folder=tmp_path, image_size=32)
  with pytest.raises(errors.InputError, match="or take a size of 24x24/"):
    records.prepare_records(settings)


def test_prepare_records_counts_images_outside_the_csv(settings, monkeypatch):
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
  (root / "train_val_list.txt").unlink()
  with pytest.raises(errors.InputError, match=r"none of the 20 images .* in train"):
    records.prepare_records(settings)


def test_prepare_records_refuses_lists_of_other_images(settings):
  root = Path(settings.root)
  (root / "train_val_list.txt").unlink()
  (root / "test_list.txt").write_text("someone_else.png\n")
  with pytest.raises(errors.InputError, match=r"not name 20 of 20 .*split=hash"):
    records.prepare_records(settings)
  by_hash = dataclasses.replace(settings, split="hash")
  assert records.prepare_records(by_hash).num_rows["train"] > 0


def test_prepare_records_says_which_split_leaves_no_training_image(settings):
  path = Path(settings.root) / "Data_Entry_2017.csv"
  header, *rows = path.read_text().splitlines()
  # Both are put into test.
  rows = [row for row in rows if row.startswith(("00000001", "00000002"))]
  path.write_text("\n".join([header, *rows]))
  with pytest.raises(errors.InputError, match="the hash of patients puts none"):
    records.prepare_records(dataclasses.replace(settings, split="hash"))


def test_log_plan_counts_what_is_known_of_findings(settings, monkeypatch):
  lines = []
  monkeypatch.setattr(
    plan.logging, "info", lambda text, *args: lines.append(text % args)
  )
  chosen = dataclasses.replace(settings, rename="Mass=A,Nodule=A", vocabulary="A,Edema")
  made = plan.make_plan(chosen)
  plan.log_plan(chosen, made)
  values = made.table.findings[:, 1]
  present = np.count_nonzero(values)
  assert f"; Edema {present}, {len(values) - present}, 0" in lines[-1]


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
  # It may be cut short, which puts test images into training.
  (warning,) = plan.make_plan(settings).table.notes
  names = len((Path(settings.root) / "test_list.txt").read_text().split())
  assert warning.startswith(f"test_list.txt has {names} names, NIH's own 25,596.")
  assert "all other images are for train: copy it again" in warning
  (Path(settings.root) / "test_list.txt").rename(
    Path(settings.root) / "test_list_NIH.txt"
  )
  assert records.open_records(settings) == both


def test_prepare_records_reads_real_originals(nih_cxr_mini, tmp_path, monkeypatch):
  monkeypatch.setattr(plan.logging, "warning", lambda *args: None)
  settings = RecordSettings(
    root=nih_cxr_mini, folder=tmp_path, image_size=512, missing="drop"
  )
  prepared = records.prepare_records(settings)
  assert sum(prepared.num_rows.values()) == 14
  assert len(prepared.dropped) == 785


def test_prepare_records_refuses_unwritable_folders(settings, tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  bad = dataclasses.replace(settings, folder=tmp_path / "file" / "records")
  with pytest.raises(errors.InputError, match=r"file.*name another .*records_dir"):
    records.prepare_records(bad)
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  with pytest.raises(errors.InputError, match=r"0\.0 MB free for records"):
    records.prepare_records(settings)
