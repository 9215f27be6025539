"""The report's one measure, in closed form."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation import report


@pytest.fixture
def references() -> np.ndarray:
  """[4 8 8], no two alike."""
  return np.random.default_rng(0).normal(size=(4, 8, 8))


def test_the_references_recognise_themselves(references):
  own = np.arange(4)
  assert report.recognition_rate(references, references, own) == 1.0
  # Brightness and contrast are not what likeness is about.
  assert report.recognition_rate(3 * references - 40, references, own) == 1.0


def test_a_wrong_owner_is_never_recognised(references):
  own = (np.arange(4) + 1) % 4
  assert report.recognition_rate(references, references, own) == 0.0


def test_negatives_are_the_least_alike(references):
  two = references[:2]
  assert report.recognition_rate(-two, two, np.array([0, 1])) == 0.0


def test_the_rate_is_the_share(references):
  images = references[[0, 1, 2, 3, 0, 1, 2, 3]]
  own = np.array([0, 1, 2, 3, 1, 2, 3, 3])
  assert report.recognition_rate(images, references, own) == 5 / 8


def test_blank_images_do_not_divide_by_zero(references):
  rate = report.recognition_rate(np.ones((2, 8, 8)), references, np.array([0, 1]))
  assert rate in (0.0, 0.5)


def test_a_run_without_pictures_is_told_so(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "dataset.json").write_text("{}")
  with pytest.raises(errors.InputError, match="no pictures in"):
    report.write(tmp_path)


def test_a_config_that_is_not_json_is_named(tmp_path):
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(errors.InputError, match=r"config.json is not JSON"):
    report.write(tmp_path)
