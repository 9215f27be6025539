"""Statistics of the records: the Haar transform is orthonormal, its bands in order."""

import numpy as np
import pytest

from cxr_diffusion_jax.data.records import statistics


def test_haar_of_one_block():
  block = np.array([[1.0, 2.0], [3.0, 5.0]])[:, :, np.newaxis]
  np.testing.assert_allclose(statistics.haar(block)[0, 0], [5.5, -1.5, -2.5, 0.5])


def test_haar_keeps_energy_and_the_order_of_channels():
  x = np.random.default_rng(0).normal(size=(8, 12, 3))
  once = statistics.haar(x)
  assert once.shape == (4, 6, 12)
  np.testing.assert_allclose(np.square(once).sum(), np.square(x).sum())
  for channel in range(3):
    alone = statistics.haar(x[:, :, channel : channel + 1])
    np.testing.assert_allclose(once[:, :, channel::3], alone)


def test_statistics_are_those_of_all_images_together():
  images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
  described = statistics.image_statistics(images)
  x = images / 127.5 - 1
  np.testing.assert_allclose(described["mean"], x.mean())
  np.testing.assert_allclose(described["std"], x.std())
  assert described["num_images"] == 5
  bands = np.stack([statistics.haar(statistics.haar(image)) for image in x])
  for name in ("mean", "std"):
    expected = getattr(bands, name)(axis=(0, 1, 2))
    np.testing.assert_allclose(described["haar"]["2"][name], expected, atol=1e-12)
  assert sorted(described["haar"]) == ["1", "2", "3"]


@pytest.mark.parametrize("side", [16, 40])
def test_image_statistics_modes_are_the_largest_variances(side):
  rng = np.random.default_rng(0)
  whole = 60 * rng.standard_normal((30, 1, 1, 1))
  noise = 20 * rng.standard_normal((30, side, side, 1))
  images = np.clip(128 + whole + noise, 0, 255).astype(np.uint8)
  described = statistics.image_statistics(images)
  for level in ("0", "2"):
    x = images / 127.5 - 1
    if level == "2":
      x = statistics.haar(statistics.haar(x)) / described["haar"]["2"]["std"]
    x = x.reshape(30, -1) - x.reshape(30, -1).mean(axis=0)
    wanted = np.linalg.svd(x, compute_uv=False)[:8] ** 2 / 30
    np.testing.assert_allclose(described["modes"][level], wanted, rtol=1e-4)
  assert sorted(described["modes"]) == ["0", "1", "2", "3"]


def test_image_statistics_levels_end_at_odd_sizes():
  image = np.zeros((12, 12, 1), np.uint8)
  assert sorted(statistics.image_statistics([image])["haar"]) == ["1", "2"]


def test_image_statistics_refuses_no_images():
  with pytest.raises(ValueError, match="no images"):
    statistics.image_statistics([])
