"""Blockiness against closed forms, and its reasons."""

import numpy as np
import pytest

from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation.metrics import blockiness


def _set(images: np.ndarray) -> ImageSet:
  return ImageSet(name="x", images=images, ids=np.arange(len(images)).astype(str))


def _ramp(at_border: int, inside: int, side: int, num: int = 4) -> np.ndarray:
  """Images that rise by one step at borders of blocks and by another within."""
  places = np.arange(1, 24)
  rise = np.where(places % side == 0, at_border, inside)
  line = np.concatenate([[0], np.cumsum(rise)])
  image = (line[:, None] + line[None]).astype(np.uint8)
  return np.repeat(image[None, ..., None], num, axis=0)


@pytest.mark.parametrize("side", blockiness.SIDES)
def test_blockiness_is_the_ratio_of_steps(side):
  figures = blockiness.measure(_set(_ramp(6, 2, side)), None)
  values = {x.metric: x.value for x in figures}
  assert values[f"blockiness_{side}"] == pytest.approx(3.0)


def test_blockiness_of_noise_is_one_within_its_interval():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (60, 32, 24, 1), np.uint8)
  for figure in blockiness.measure(_set(images), np.arange(60) // 2):
    assert figure.low < 1 < figure.high
    assert figure.high - figure.low < 0.1
    assert (figure.num, figure.patients) == (60, 30)


@pytest.mark.parametrize(
  ("images", "reason"),
  [
    (_ramp(6, 2, 4, num=1), "fewer than 2 images"),
    (np.zeros((3, 8, 8, 1), np.uint8), "no border of blocks of 8 pixels"),
    (np.zeros((3, 16, 16, 1), np.uint8), "constant within their blocks"),
  ],
)
def test_blockiness_states_why_it_is_undefined(images, reason):
  figure = blockiness.measure(_set(images), None)[-1]
  assert figure.value is None
  assert reason in figure.reason
