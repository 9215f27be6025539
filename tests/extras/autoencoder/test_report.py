"""Figures of an autoencoder: of pairs, and of features."""

import types

import numpy as np
import pytest

from cxr_diffusion_jax.encoders.probes import probe, probe_settings
from cxr_diffusion_jax.evaluation.metrics import diversity
from cxr_diffusion_jax.extras.autoencoder import report as autoencoder_report


def test_similarities_are_means_over_all_pairs():
  rng = np.random.default_rng(0)
  real = rng.uniform(-1, 1, (18, 12, 12, 1)).astype(np.float32)
  result = np.clip(real + 0.1 * rng.standard_normal(real.shape), -1, 1)
  figures = autoencoder_report.similarities(real, result.astype(np.float32))
  assert sorted(figures) == ["ms_ssim", "psnr", "ssim"]
  error = np.square((result - real) / 2).mean(axis=(1, 2, 3))
  assert figures["psnr"] == pytest.approx((-10 * np.log10(error)).mean(), rel=1e-5)
  ssim = diversity.ssim((real + 1) / 2, (result + 1) / 2)
  assert figures["ssim"] == pytest.approx(float(ssim.mean()), rel=1e-4)
  small = autoencoder_report.similarities(real[:, :8], result[:, :8])
  assert sorted(small) == ["psnr"]


def test_distances_are_listed_beside_those_of_real_images():
  rng = np.random.default_rng(0)
  real, reference = rng.uniform(-1, 1, (2, 40, 4, 4, 1))

  def features(image):
    return image.reshape(len(image), -1)[:, :3]

  same = autoencoder_report.distances(features, real, real, reference)
  assert same["rfid"] == pytest.approx(0, abs=1e-9)
  assert same["rfid_floor"] > 1e-3
  shifted = autoencoder_report.distances(features, real, real + 1, reference)
  assert shifted["rfid"] == pytest.approx(3)


def test_features_are_those_of_an_existing_probe(tmp_path):
  dataset = types.SimpleNamespace(records=types.SimpleNamespace(folder=tmp_path))

  def extractor():
    return autoencoder_report.extractor(dataset, None, False, lambda *reported: None)

  assert extractor() is None
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
  findings = np.array([[0], [1], [0], [1]])
  judge = probe.train_probe(
    images,
    findings,
    tmp_path / "probe",
    validation=(images, findings),
    settings=probe_settings.ProbeSettings(
      widths=(4,), norm_groups=2, num_steps=1, batch_size=4
    ),
  )
  name, function = extractor()
  assert judge.fingerprint in name
  features = function(images.astype(np.float32) / 127.5 - 1)
  # The mean and the maximum of each channel; the scores are linear in them.
  assert features.shape == (4, 8)
  head = judge.params["head"]
  logits = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
  scores = 1 / (1 + np.exp(-logits))
  np.testing.assert_allclose(scores, judge.scores(images), atol=1e-6)
