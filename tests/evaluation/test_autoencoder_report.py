"""Figures of an autoencoder: of pairs, and of features."""

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation import autoencoder_report, diversity


def test_figures_are_means_over_all_pairs():
  rng = np.random.default_rng(0)
  real = rng.uniform(-1, 1, (18, 12, 12, 1)).astype(np.float32)
  made = np.clip(real + 0.1 * rng.standard_normal(real.shape), -1, 1)
  figures = autoencoder_report.similarities(real, made.astype(np.float32))
  assert sorted(figures) == ["ms_ssim", "psnr", "ssim"]
  error = np.square((made - real) / 2).mean(axis=(1, 2, 3))
  assert figures["psnr"] == pytest.approx((-10 * np.log10(error)).mean(), rel=1e-5)
  ssim = diversity.ssim((real + 1) / 2, (made + 1) / 2)
  assert figures["ssim"] == pytest.approx(float(ssim.mean()), rel=1e-4)
  small = autoencoder_report.similarities(real[:, :8], made[:, :8])
  assert sorted(small) == ["psnr"]


def test_distances_stand_beside_that_of_other_real_images():
  rng = np.random.default_rng(0)
  real, reference = rng.uniform(-1, 1, (2, 40, 4, 4, 1))

  def features(image):
    return image.reshape(len(image), -1)[:, :3]

  same = autoencoder_report.distances(features, real, real, reference)
  assert same["rfid"] == pytest.approx(0, abs=1e-9)
  assert same["rfid_floor"] > 1e-3
  shifted = autoencoder_report.distances(features, real, real + 1, reference)
  assert shifted["rfid"] == pytest.approx(3)
