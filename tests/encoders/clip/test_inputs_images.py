"""Images become what CLIP's own processor makes of them, in grey bytes."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.clip import inputs as clip_inputs
from cxr_diffusion_jax.encoders.clip import model as clip_model

TORCH_CLIP = pathlib.Path(__file__).parent / "torch_clip"
SETTINGS = clip_inputs.PixelSettings(
  size=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)


def test_load_reports_a_processor_of_another_model(tmp_path):
  folder = pathlib.Path(shutil.copytree(TORCH_CLIP, tmp_path / "clip"))
  path = folder / "preprocessor_config.json"
  settings = json.loads(path.read_text(encoding="utf-8"))
  settings["crop_size"] = {"height": 24, "width": 24}
  path.write_text(json.dumps(settings), encoding="utf-8")
  with pytest.raises(errors.InputError, match="makes images of 24 pixels"):
    clip_model.load(folder)


def test_fit_takes_grey_bytes_only_and_leaves_the_right_size_alone():
  images = np.random.default_rng(2).integers(0, 256, (2, 36, 36, 1), np.uint8)
  fitted = clip_inputs.fit(images, SETTINGS)
  np.testing.assert_array_equal(fitted, images[:, 2:34, 2:34])
  with pytest.raises(ValueError, match="expected uint8"):
    clip_inputs.fit(images / 255.0, SETTINGS)


def test_fit_takes_images_of_several_sizes():
  generator = np.random.default_rng(3)
  shapes = [(36, 36), (20, 20), (500, 40), (36, 90), (36, 36)]
  images = [generator.integers(0, 256, shape, np.uint8) for shape in shapes]
  fitted = clip_inputs.fit(images, SETTINGS)
  assert fitted.shape == (5, 32, 32, 1)
  for image, one in zip(images, fitted, strict=True):
    alone = clip_inputs.fit(image[None, ..., None], SETTINGS)
    np.testing.assert_array_equal(one, alone[0])
