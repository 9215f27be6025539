"""Similarities of images: closed forms, bounds, and a definition written out again."""

import numpy as np
import pytest
import scipy.ndimage

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation.metrics import diversity

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _images(side: int, *, noise: float = 0.1, channels: int = 1):
  rng = np.random.default_rng(side)
  x = scipy.ndimage.gaussian_filter(rng.uniform(size=(2, side, side, channels)), 2)
  x = (x - x.min()) / np.ptp(x)
  y = np.clip(x + noise * rng.standard_normal(x.shape), 0, 1)
  return x.astype(np.float32), y.astype(np.float32)


def _expected_maps(x: np.ndarray, y: np.ndarray):
  """SSIM's map and its contrast factor of planes [h w] in float64, window by window."""
  at = np.arange(11) - 5
  window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
  window /= window.sum()
  patches = [
    np.lib.stride_tricks.sliding_window_view(plane.astype(np.float64), (11, 11))
    for plane in (x, y)
  ]
  (mean_x, mean_y) = ((patch * window).sum(axis=(2, 3)) for patch in patches)
  dx, dy = patches[0] - mean_x[..., None, None], patches[1] - mean_y[..., None, None]
  var_x, var_y, cov = (
    (product * window).sum(axis=(2, 3)) for product in (dx * dx, dy * dy, dx * dy)
  )
  contrast = (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)
  luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
  return luminance * contrast, contrast


def test_ssim_equals_its_definition():
  x, y = _images(24, channels=2)
  expected = [
    np.mean([_expected_maps(x[i, ..., c], y[i, ..., c])[0] for c in range(2)])
    for i in range(2)
  ]
  np.testing.assert_allclose(diversity.ssim(x, y), expected, rtol=1e-4)


@pytest.mark.parametrize(("side", "scales"), [(162, 5), (43, 3), (11, 1)])
def test_ms_ssim_equals_its_definition(side, scales):
  x, y = _images(side)
  assert diversity.num_scales(side) == scales
  weights = np.array(WEIGHTS[:scales]) * sum(WEIGHTS) / sum(WEIGHTS[:scales])
  expected = []
  for a, b in zip(x[..., 0], y[..., 0], strict=True):
    product = 1.0
    for scale, weight in enumerate(weights):
      last = scale == scales - 1
      product *= _expected_maps(a, b)[0 if last else 1].mean() ** weight
      if not last:
        # The mean of 2x2, a row or column that is left alone counting twice.
        a, b = (
          scipy.ndimage.uniform_filter(np.float64(p), 2, mode="nearest", origin=-1)[
            ::2, ::2
          ]
          for p in (a, b)
        )
    expected.append(product)
  np.testing.assert_allclose(diversity.ms_ssim(x, y), expected, rtol=1e-4)


def test_num_scales_is_limited_by_the_image_size():
  sides = (10, 11, 20, 21, 40, 41, 80, 81, 160, 161, 1000)
  counts = [diversity.num_scales(side) for side in sides]
  assert counts == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
  np.testing.assert_array_equal(diversity.scale_weights(161), WEIGHTS)
  for side in sides[1:]:
    assert diversity.scale_weights(side).sum() == pytest.approx(sum(WEIGHTS))


@pytest.mark.parametrize("name", ["ssim", "ms_ssim"])
def test_ssim_and_ms_ssim_fall_with_noise(name):
  similarity = getattr(diversity, name)
  x, little = _images(48, noise=0.02)
  _, much = _images(48, noise=0.3)
  np.testing.assert_allclose(similarity(x, x), 1, atol=1e-6)
  np.testing.assert_allclose(similarity(x, little), similarity(little, x), rtol=1e-5)
  assert (similarity(x, much) < similarity(x, little)).all()
  assert (similarity(x, little) < 1).all()
  # An image and its negative: ms_ssim ends at 0, and is a number.
  assert np.isfinite(similarity(x, 1 - x)).all()


def test_psnr_of_a_constant_difference_is_its_closed_form():
  x = np.full((2, 4, 6, 1), 0.5, np.float32)
  y = x + np.array([0.1, 0.01], np.float32).reshape(2, 1, 1, 1)
  np.testing.assert_allclose(diversity.psnr(x, y), [20, 40], atol=1e-4)
  assert np.isinf(diversity.psnr(x, x)).all()


def test_psnr_ssim_and_ms_ssim_refuse_wrong_shapes():
  x = np.zeros((1, 16, 16, 1))
  for measure in (diversity.psnr, diversity.ssim, diversity.ms_ssim):
    with pytest.raises(errors.InputError, match="two of one shape"):
      measure(x, x[:, :8])
  for measure in (diversity.ssim, diversity.ms_ssim):
    with pytest.raises(errors.InputError, match="sides of 11 or more"):
      measure(x[:, :, :10], x[:, :, :10])
