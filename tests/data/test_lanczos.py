import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax.data import lanczos


def _image(height: int, width: int) -> np.ndarray:
  """Smooth shapes, noise, and a square with sharp edges."""
  y, x = np.mgrid[:height, :width]
  noise = np.random.default_rng(0).normal(0, 6, (height, width))
  image = 128 + 90 * np.sin(x / 17) * np.cos(y / 23) + noise
  image[height // 3 : height // 2, width // 3 : width // 2] = 255
  return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
  ("shape", "size"),
  [
    ((1024, 1024), (256, 256)),
    ((1024, 1024), (512, 512)),
    ((700, 431), (97, 158)),
    ((431, 700), (256, 129)),
    ((60, 41), (256, 256)),
    ((300, 200), (200, 100)),
    ((200, 300), (100, 200)),
    ((1, 1), (64, 64)),
    ((2, 900), (31, 5)),
    ((2000, 1), (1, 17)),
  ],
)
def test_resize_is_pils(shape, size):
  image = _image(*shape)
  expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
  resized = lanczos.resize(image, size)
  assert resized.shape == expected.shape
  differences = abs(resized.astype(int) - expected)
  assert differences.max() <= 1
  assert (differences > 0).mean() < 0.003


@pytest.mark.parametrize(
  "box", [(0, 100.5, 300, 400.5), (13.25, 0, 200, 186.75), (100, 200, 164, 264)]
)
def test_resize_of_a_box_is_pils(box):
  image = _image(500, 300)
  picture = Image.fromarray(image)
  expected = picture.resize((64, 64), Image.Resampling.LANCZOS, box=box)
  differences = abs(lanczos.resize(image, (64, 64), box).astype(int) - expected)
  assert differences.max() <= 1
  assert (differences > 0).mean() < 0.003


@pytest.mark.parametrize("value", [0, 1, 200, 255])
def test_resize_keeps_a_constant(value):
  image = np.full((77, 130), value, np.uint8)
  assert (lanczos.resize(image, (50, 300)) == value).all()
