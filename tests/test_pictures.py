"""Grids of images: each where it belongs, labels that fit, files that are whole."""

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import pictures


def _flat(value: int, size: int = 16) -> np.ndarray:
  return np.full((size, size, 1), value, np.uint8)


def test_grid_places_images_by_row_and_column():
  rows = [[_flat(50), _flat(100)], [_flat(150)]]
  picture = np.asarray(pictures.grid(rows, cell=32))
  m, step = pictures.MARGIN, 32 + pictures.MARGIN
  assert picture.shape == (m + 2 * step, m + 2 * step)
  centres = [
    [picture[m + r * step + 16, m + c * step + 16] for c in (0, 1)] for r in (0, 1)
  ]
  assert centres == [[50, 100], [150, pictures.BACKGROUND]]
  assert (picture[:m] == pictures.BACKGROUND).all()


def test_grid_keeps_the_orientation_of_images():
  ramp = np.repeat(np.linspace(0, 255, 32, dtype=np.uint8)[:, None], 32, axis=1)
  picture = np.asarray(pictures.grid([[ramp]], cell=32))
  m = pictures.MARGIN
  np.testing.assert_array_equal(picture[m : m + 32, m : m + 32], ramp)


def test_grid_labels_do_not_cover_images():
  plain = pictures.grid([[_flat(90)] * 3], cell=64)
  labelled = pictures.grid(
    [[_flat(90)] * 3],
    row_labels=["generated"],
    column_labels=["Effusion\nMass", "a very long name of a finding", ""],
    title="step 7",
    cell=64,
  )
  assert labelled.width > plain.width
  assert labelled.height > plain.height + 17 * 2
  pixels = np.asarray(labelled)
  # Some pixels at the letters' edges have the same grey.
  assert 3 * 64 * 64 <= (pixels == 90).sum() < 3 * 64 * 64 + 50
  assert (pixels > 200).any()


@pytest.mark.parametrize("text", ["", "x", "Pleural_Thickening and more of it"])
def test_grid_labels_stay_in_their_column(text):
  rows = [[_flat(pictures.BACKGROUND)] * 2]
  alone = np.asarray(pictures.grid(rows, column_labels=[text, ""], cell=48))
  inked = np.flatnonzero((alone != pictures.BACKGROUND).any(axis=0))
  assert not inked.size or inked.max() < pictures.MARGIN + 48 + pictures.MARGIN
  assert bool(inked.size) == bool(text)


def test_grid_never_truncates_the_title():
  short = pictures.grid([[_flat(0)]], title="t", cell=32)
  long = pictures.grid([[_flat(0)]], title="a title that is wider than all", cell=32)
  assert long.width > short.width


def test_save_writes_whole_files_or_none(tmp_path):
  path = tmp_path / "deep" / "picture.png"
  pictures.save(pictures.grid([[_flat(7)]]), path)
  pictures.save(pictures.grid([[_flat(9)]]), path)
  with Image.open(path) as picture:
    assert np.asarray(picture)[64, 64] == 9
  assert [file.name for file in path.parent.iterdir()] == ["picture.png"]
