"""Variety: pairs are what they are said to be, means and reasons."""

import types

import numpy as np
import pytest

from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation.metrics import condition_diversity, diversity

EXTRACTOR = types.SimpleNamespace(name="net", layer="last", standin=False)


def _real(num: int, side: int = 32) -> ImageSet:
  rng = np.random.default_rng(0)
  findings = np.zeros((num, 14), np.uint8)
  findings[::3, 1] = 1
  return ImageSet(
    name="test",
    images=rng.integers(0, 256, (num, side, side, 1), np.uint8),
    ids=np.arange(num).astype(str),
    labels={"findings": findings, "patient": np.arange(num) // 2},
  )


def _measured(images, features, real, **options) -> dict:
  features_of_real = np.arange(len(real), dtype=np.float64)[:, None]
  measurements = condition_diversity.measure(
    images,
    features,
    real=real,
    real_features=features_of_real,
    extractor=EXTRACTOR,
    **options,
  )
  return {(x.metric, x.group, x.of): x for x in measurements}


@pytest.mark.parametrize("num", [1000, 12])
def test_within_and_between_pair_images_of_groups(num):
  groups = np.array(list("abacbaddxa"))
  within = condition_diversity.within(groups, num, np.random.default_rng(0))
  assert len(within) == min(num, 6 + 1 + 1)
  between = condition_diversity.between(groups, num, np.random.default_rng(0))
  assert len(between) == min(num, len(between))
  for rows, same in ((within, True), (between, False)):
    assert ((groups[rows[:, 0]] == groups[rows[:, 1]]) == same).all()
    assert len({frozenset(pair) for pair in rows.tolist()}) == len(rows)
    assert (rows[:, 0] != rows[:, 1]).all()


def test_within_draws_pairs_of_large_groups_evenly():
  groups = np.repeat([0, 1, 2], [30, 30, 1])
  rows = condition_diversity.within(groups, 200, np.random.default_rng(0))
  assert len(rows) == 200
  assert (groups[rows[:, 0]] == groups[rows[:, 1]]).all()
  assert (rows[:, 0] != rows[:, 1]).all()
  assert 70 < (groups[rows[:, 0]] == 0).sum() < 130
  assert len(np.unique(rows)) > 55


def test_measure_equals_its_definition():
  real = _real(12)
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (3, 2, 32, 32, 1), np.uint8)
  images[2, 1] = images[2, 0]
  features = np.array([[[0.0], [3.0]], [[10.0], [14.0]], [[20.0], [20.0]]])
  reported = _measured(images, features, real)
  # Sixty-four at a time, as reports ask for them: nothing is compiled again.
  many = np.resize(images / 255, (64, 2, 32, 32, 1))
  similar = diversity.ms_ssim(many[:, 0], many[:, 1])[:3]
  result = reported["ms_ssim_within_condition", "all", "generated"]
  assert result.value == pytest.approx(float(similar.mean()), abs=1e-6)
  assert result.low < result.value < result.high
  assert (result.num, result.num_real, result.judge) == (6, 12, "")
  result = reported["feature_distance_within_condition", "all", "generated"]
  assert result.value == pytest.approx((3 + 4 + 0) / 3)
  assert result.judge == "net, last"
  flat = features.ravel()
  apart = [
    abs(flat[i] - flat[j]) for i in range(6) for j in range(i) if i // 2 != j // 2
  ]
  assert reported["feature_distance", "all", "generated"].value == pytest.approx(
    np.mean(apart)
  )
  # Two images of a patient stand side by side, every third has the finding.
  shares = {
    g: x.value for (m, g, of), x in reported.items() if "feature" in m and of != ""
  }
  assert shares["pairs: same patient"] == 1
  same = [i - j for i in range(12) for j in range(i) if (i % 3 == 0) == (j % 3 == 0)]
  assert shares["pairs: same findings"] == pytest.approx(np.mean(same))
  everything = reported["ms_ssim", "all", "real"]
  assert reported["ms_ssim_within_condition", "all", "real"].value == everything.value


def test_measure_widens_the_interval_for_shared_images():
  features = np.random.default_rng(0).standard_normal((200, 20, 1))
  features += 5 * features[:, :1]
  images = np.zeros((200, 20, 1, 1, 1), np.uint8)
  real = _real(4, side=1)
  result = _measured(images, features, real, num_pairs=4000)
  result = result["feature_distance", "all", "generated"]
  # Conditions are far apart: the 200 of them are the evidence, the 4,000 pairs are not.
  spread = 6 * np.sqrt(2 - 4 / np.pi)
  assert result.high - result.low > 2.5 * 3.92 * spread / np.sqrt(4000)


def test_diversity_states_why_it_is_undefined():
  real = _real(4, side=8)
  images = np.zeros((3, 1, 8, 8, 1), np.uint8)
  reported = _measured(images, np.zeros((3, 1, 2)), real)
  assert "11 pixels" in reported["ms_ssim", "all", "generated"].reason
  alone = reported["feature_distance_within_condition", "all", "generated"]
  assert "fewer than two such images of a condition" in alone.reason
  assert alone.value is None
  assert reported["feature_distance", "all", "generated"].value == 0
  with pytest.raises(ValueError, match="not of these images"):
    _measured(images, np.zeros((3, 2, 2)), real)
