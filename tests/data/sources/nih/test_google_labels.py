"""Google's labels: a file's columns say whether it holds consensus or readers."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.data.sources.nih import google_labels, layout, metadata

ENTRY = "Edema,1,7,60,M,PA,2500,2048,0.168,0.168"
FOUR = (
  "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
  "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
  "Fracture,Pneumothorax,Airspace opacity,Nodule or mass"
)
READERS = "Reader ID,Image ID,Fracture,Pneumothorax,Airspace opacity,Nodule/mass"
EVERY = "Image ID,Abnormal," + ",".join(metadata.FINDINGS) + ",Other"


def test_four_findings_are_read_with_and_without_a_set_column(tmp_path):
  folder = tmp_path / "four_findings_expert_labels"
  folder.mkdir()
  (folder / "validation_labels.csv").write_text(
    f"{FOUR}\n00000007_001.png,{ENTRY},YES,NO,NO,YES\n"
  )
  flat = tmp_path / "four_findings_expert_labels_test_labels.csv"
  flat.write_text(f"{FOUR},Set Id\n00000008_001.png,{ENTRY},NO,NO,YES,,test\n")
  read = google_labels.read_google_labels([folder / "validation_labels.csv", flat])
  assert read.four_findings["00000007_001"].tolist() == [1, 0, 0, 1]
  np.testing.assert_array_equal(read.four_findings["00000008_001"], [0, 0, 1, np.nan])
  assert read.test_ids == {"00000008_001"}


def test_images_of_readers_alone_are_test_images(tmp_path):
  validation = tmp_path / "validation_labels.csv"
  validation.write_text(f"{FOUR}\n00000007_001.png,{ENTRY},YES,NO,NO,YES\n")
  readers = tmp_path / "individual_readers.csv"
  readers.write_text(
    f"{READERS}\n4,00000007_001.png,YES,HEDGE,NO,NO\n5,00000009_000.png,NO,NO,NO,YES\n"
  )
  read = google_labels.read_google_labels([readers, validation])
  assert read.four_findings["00000007_001"].tolist() == [1, 0, 0, 1]
  # What only readers saw could be of the test set: kept out of training.
  assert read.test_ids == {"00000009_000"}


def test_read_google_labels_reads_all_findings(tmp_path):
  folder = tmp_path / "all_findings_expert_labels"
  folder.mkdir()
  path = folder / "test_labels.csv"
  cells = ["1" if name in ("Edema", "Mass") else "0" for name in metadata.FINDINGS]
  path.write_text(f"{EVERY}\n00000003_002.png,1,{','.join(cells)},0\n")
  votes = folder / "test_individual_readers.csv"
  votes.write_text(f"Reader ID,{EVERY}\n9,00000004_002.png,0,{','.join(cells)},0\n")
  read = google_labels.read_google_labels([path, votes])
  values = read.all_findings["00000003_002"]
  assert labels.names_of(values[:14], metadata.FINDINGS) == ("Edema", "Mass")
  assert values[14] == 1
  assert read.test_ids == {"00000003_002", "00000004_002"}
  assert not read.four_findings


def test_read_google_labels_refuses_other_files_and_values(tmp_path):
  path = tmp_path / "labels.csv"
  path.write_text("a,b\n1,2\n")
  with pytest.raises(errors.InputError, match=r"labels.csv holds no expert labels"):
    google_labels.read_google_labels([path])
  path.write_text("")
  with pytest.raises(errors.InputError, match=r"labels.csv holds no expert labels"):
    google_labels.read_google_labels([path])
  path.write_text(FOUR)
  assert not google_labels.read_google_labels([path]).test_ids
  path.write_text(f"{FOUR}\n00000007_001.png,{ENTRY},PERHAPS,NO,NO,YES\n")
  with pytest.raises(errors.InputError, match=r"labels.csv line 2 says PERHAPS"):
    google_labels.read_google_labels([path])


@pytest.mark.parametrize(
  "cells", ["3", "3,00000009_000.png,NO", "3,a.png,NO,NO,NO,NO,x"]
)
def test_read_google_labels_refuses_rows_of_other_lengths(tmp_path, cells):
  path = tmp_path / "individual_readers.csv"
  path.write_text(f"{READERS}\n1,00000001_000.png,NO,NO,NO,NO\n{cells}")
  with pytest.raises(errors.InputError, match=r"readers.csv line 3 has \d cells"):
    google_labels.read_google_labels([path])


def test_read_google_labels_reads_the_real_files(nih_cxr_mini):
  paths = layout.find_tree(nih_cxr_mini).google_labels
  read = google_labels.read_google_labels(paths)
  assert len(read.four_findings) == 30
  assert len(read.test_ids) == 11
  values = np.stack(list(read.four_findings.values()))
  assert set(np.unique(values)) == {0, 1}
