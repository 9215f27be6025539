"""Unpacking Google's subset: wrong files are refused and nothing leaves the tree."""

import io
import pathlib

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.download import google_subset

HEADER = (
  "image_id,dicom_file,AIRSPACE_OPACITY,FRACTURE,PNEUMOTHORAX,CONSOLIDATION,EFFUSION,"
  "PULMONARY_EDEMA,ATELECTASIS,CARDIOMEGALY\n"
)
SUBSET_ROWS = (
  "00000013_026,a.dcm,1,0,1.0,,0,1,0,0\n"
  "00000001_000,b.dcm,0.0,,0,0,0,,0,0\n"
  "00000077_001,without_image.dcm,1,1,1,1,1,1,1,1\n"
)


def webp(grey: int) -> bytes:
  content = io.BytesIO()
  Image.new("RGB", (20, 16), (grey,) * 3).save(content, format="WEBP", lossless=True)
  return content.getvalue()


def npz(**arrays) -> bytes:
  content = io.BytesIO()
  np.savez(content, **arrays)
  return content.getvalue()


def good_thumbnails() -> bytes:
  return npz(
    **{
      "00000013_026": np.frombuffer(webp(60), np.uint8),
      # Google's file may hold byte strings as well.
      "00000001_000": np.array(np.void(webp(200))),
      "00000099_000": np.frombuffer(webp(1), np.uint8),
    }
  )


def write(path: pathlib.Path, content: bytes) -> pathlib.Path:
  path.write_bytes(content)
  return path


@pytest.mark.parametrize(
  "name", ["../../evil", "/tmp/evil", "..\\evil", "a/b", ".hidden", "00000001_000/../x"]
)
def test_unpack_never_leaves_the_folder(tmp_path, name):
  labels = write(tmp_path / "labels.csv", (HEADER + SUBSET_ROWS).encode())
  entry = np.frombuffer(webp(9), np.uint8)
  path = write(
    tmp_path / "t.npz", npz(**{"00000001_000": entry, name.lstrip("/"): entry})
  )
  root = tmp_path / "deep" / "root"
  root.mkdir(parents=True)
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(errors.InputError, match=r"has an image called .*not Google's"):
    google_subset.unpack(path, labels, root)
  assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
  ("thumbnails", "labels", "message"),
  [
    (npz(**{"00000001_000": np.arange(9, dtype=np.uint8)}), None, "000 is no image"),
    (npz(**{"00000001_000": np.array([{}])}), None, "without pickles"),
    (good_thumbnails()[:-30], None, "cannot be read as npz"),
    (npz(**{"00000055_000": np.ones(3)}), None, "no image of .* has a row in"),
    (None, "image_id,FRACTURE\n", "lacks the column 'AIRSPACE_OPACITY' and"),
    (None, HEADER + "00000001_000,b,2,,0,0,0,,0,0\n", "line 2: .* is '2'"),
    (None, HEADER + "../x,b,1,,0,0,0,,0,0\n", "image called '../x'"),
  ],
)
def test_google_subset_refuses_wrong_files(tmp_path, thumbnails, labels, message):
  thumbnails = good_thumbnails() if thumbnails is None else thumbnails
  path = write(tmp_path / "t.npz", thumbnails)
  text = (HEADER + SUBSET_ROWS) if labels is None else labels
  table = write(tmp_path / "labels.csv", text.encode())
  with pytest.raises(errors.InputError, match=message):
    google_subset.unpack(path, table, tmp_path / "root")
  assert not (tmp_path / "root/Data_Entry_2017.csv").exists()
