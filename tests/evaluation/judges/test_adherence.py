"""Adherence figures against closed forms, counts of pairs, and planted effects."""

import math

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.probes import probe
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.metrics import ranking


def _by_pairs(scores, positive):
  """AUROC by its definition."""
  pairs = [
    1.0 if mine > other else 0.5 if mine == other else 0.0
    for mine in scores[positive]
    for other in scores[~positive]
  ]
  return sum(pairs) / len(pairs)


def _by_thresholds(scores, positive):
  """Average precision by its definition: over thresholds, from the highest down."""
  total, recall = 0.0, 0.0
  for threshold in sorted(set(scores), reverse=True):
    taken = scores >= threshold
    now = (taken & positive).sum() / positive.sum()
    total += (now - recall) * (taken & positive).sum() / taken.sum()
    recall = now
  return total


def _case(seed, n=40, levels=6):
  """Scores with many ties, and a finding that they tell of."""
  generator = np.random.default_rng(seed)
  positive = generator.random(n) < 0.3
  positive[:2] = True, False
  return generator.integers(0, levels, n) + 2.0 * positive, positive


@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_average_precision_equal_their_definitions(seed):
  scores, positive = _case(seed)
  ones = np.ones((1, len(scores)))
  auroc = ranking.auroc(scores, positive, ones)
  precision = ranking.average_precision(scores, positive, ones)
  np.testing.assert_allclose(auroc, _by_pairs(scores, positive), rtol=1e-12)
  np.testing.assert_allclose(precision, _by_thresholds(scores, positive), rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_weights_are_repetitions(seed):
  scores, positive = _case(seed)
  counts = np.random.default_rng(seed).integers(0, 4, (3, len(scores)))
  auroc = ranking.auroc(scores, positive, counts)
  precision = ranking.average_precision(scores, positive, counts)
  for r, count in enumerate(counts):
    repeated, labels = np.repeat(scores, count), np.repeat(positive, count)
    assert math.isclose(auroc[r], _by_pairs(repeated, labels), rel_tol=1e-12)
    assert math.isclose(precision[r], _by_thresholds(repeated, labels), rel_tol=1e-12)


def test_auroc_and_average_precision_equal_closed_forms():
  positive = np.array([True, False, True, False])
  ones = np.ones((1, 4))
  for scores, auroc, precision in (
    ([4, 2, 3, 1], 1.0, 1.0),  # perfect
    ([1, 3, 2, 4], 0.0, (1 / 3 + 2 / 4) / 2),  # reversed
    ([5, 5, 5, 5], 0.5, 0.5),  # says nothing: precision is the prevalence
    ([4, 3, 2, 1], 0.75, (1 + 2 / 3) / 2),
  ):
    scores = np.array(scores, float)
    assert ranking.auroc(scores, positive, ones) == auroc
    assert ranking.average_precision(scores, positive, ones) == precision


def test_auroc_of_two_gaussians():
  # P(N(d, 1) > N(0, 1)) = Phi(d / sqrt 2).
  generator = np.random.default_rng(0)
  positive = np.arange(40_000) % 2 == 0
  scores = generator.standard_normal(40_000) + 1.0 * positive
  expected = 0.5 * (1 + math.erf(0.5))
  assert abs(ranking.auroc(scores, positive, np.ones((1, 40_000))) - expected) < 0.01


def test_auroc_does_not_change_under_a_monotone_map():
  scores, positive = _case(1)
  ones = np.ones((1, len(scores)))
  for fn in (ranking.auroc, ranking.average_precision):
    assert fn(np.exp(scores), positive, ones) == fn(scores, positive, ones)


def test_auroc_is_undefined_for_a_single_class():
  scores, ones = np.arange(3.0), np.ones((1, 3))
  none, all_ = np.zeros(3, bool), np.ones(3, bool)
  assert np.isnan(ranking.auroc(scores, none, ones)).all()
  assert np.isnan(ranking.auroc(scores, all_, ones)).all()
  assert np.isnan(ranking.average_precision(scores, none, ones)).all()


@pytest.mark.parametrize("seed", range(5))
def test_youden_thresholds_are_the_best_of_all(seed):
  scores, positive = _case(seed)
  (threshold,) = probe.youden_thresholds(scores[:, None], positive[:, None])

  def gain(cut):
    return (scores[positive] > cut).mean() - (scores[~positive] > cut).mean()

  assert gain(threshold) == max(gain(cut) for cut in np.arange(-1, 9, 0.25))


def test_youden_thresholds_of_extreme_findings():
  positive = np.array([[1, 0, 1, 1], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])
  positive[:, 2] = [0, 0, 1, 1]
  scores = np.array([[0.9, 0.1, 0.4, 0.5], [0.7, 0.2, 0.3, 0.5],
                     [0.2, 0.3, 0.2, 0.5], [0.1, 0.4, 0.1, 0.5]])  # fmt: skip
  first, second, third, fourth = probe.youden_thresholds(scores, positive)
  assert math.isclose(first, 0.45)
  assert np.isnan(second)
  assert third == 0.4  # Reversed: better nothing than the wrong ones.
  assert fourth == 0.5  # All equal: nothing is above.


def _ends(estimate):
  fields = estimate.fields((0.0, 1.0))
  return fields["low"], fields["high"]


@pytest.fixture(scope="module")
def planted():
  """200 images, 3 findings seen well, badly and not at all, and one that none has."""
  generator = np.random.default_rng(0)
  asked = (generator.random((200, 4)) < [0.3, 0.3, 0.3, 0]).astype(np.uint8)
  scores = generator.standard_normal((200, 4)) + asked * [4, 1, 0, 0]
  return scores, asked, np.array([2.0, 0.5, 0.0, np.nan])


def test_measure_gives_the_defined_figures(planted):
  scores, asked, thresholds = planted
  result = adherence.measure(scores, asked, thresholds)
  assert result.num_images == 200
  assert result.num_positive.tolist() == asked.sum(axis=0).tolist()
  assert result.counted.tolist() == [True, True, True, False]
  assert result.values["auroc"][0] > 0.99
  assert 0.65 < result.values["auroc"][1] < 0.85
  assert 0.35 < result.values["auroc"][2] < 0.6
  for k in range(3):
    has = asked[:, k] == 1
    assert math.isclose(
      result.values["found"][k], (scores[has, k] > thresholds[k]).mean()
    )
    assert math.isclose(
      result.values["false_alarms"][k], (scores[~has, k] > thresholds[k]).mean()
    )
    assert math.isclose(result.values["auroc"][k], _by_pairs(scores[:, k], has))
  for name, estimate in result.macro.items():
    assert math.isclose(estimate.value, result.values[name][:3].mean()), name
    low, high = _ends(estimate)
    assert low < estimate.value < high, name
  assert np.isnan(
    [
      result.values["auroc"][3],
      result.values["found"][3],
      result.values["false_alarms"][3],
    ]
  ).all()


def test_measure_with_unknown_findings_is_that_of_the_known_rows(planted):
  scores, asked, thresholds = planted
  unknown = np.random.default_rng(2).random(asked.shape) < 0.3
  result = adherence.measure(scores, np.where(unknown, np.nan, asked), thresholds)
  assert result.num_known.tolist() == (~unknown).sum(axis=0).tolist()
  for k in range(3):
    rows = ~unknown[:, k]
    alone = adherence.measure(
      scores[rows, k : k + 1], asked[rows, k : k + 1], thresholds[k : k + 1]
    )
    for name, values in alone.values.items():
      assert result.values[name][k] == pytest.approx(values[0]), (name, k)
      assert result.findings[name][k].value == pytest.approx(values[0])
  names = ("a", "b", "c", "d")
  nowhere = np.where(np.arange(4) == 3, np.nan, asked)
  table = adherence.to_measurements(
    adherence.measure(scores, nowhere, thresholds), names
  )
  (last,) = (x for x in table if (x.metric, x.group) == ("auroc", "finding: d"))
  assert (last.value, last.reason) == (None, "unknown in all 200 images")


def test_measure_of_shuffled_conditions_is_chance(planted):
  scores, asked, thresholds = planted
  asked = asked[np.random.default_rng(1).permutation(200)]
  macro = adherence.measure(scores, asked, thresholds).macro
  low, high = _ends(macro["auroc"])
  assert low < 0.5 < high < 0.62
  assert abs(macro["found"].value - macro["false_alarms"].value) < 0.1


def test_macro_means_are_over_the_same_findings(planted):
  scores, asked, thresholds = planted
  asked = asked.copy()
  asked[np.flatnonzero(asked[:, 2])[4:], 2] = 0
  for least, counted in ((5, 2), (4, 3)):
    result = adherence.measure(scores, asked, thresholds, least)
    assert result.counted.sum() == counted
    assert np.isfinite(result.values["auroc"][2])
  blind = adherence.measure(scores, asked, np.array([np.nan, 0.5, 0, 0]))
  assert blind.counted.tolist() == [False, True, False, False]
  assert np.isfinite(blind.values["auroc"][0])
  assert np.isnan([blind.values["found"][0], blind.values["false_alarms"][0]]).all()


def test_adherence_interval_is_binomial():
  # One finding, all figures but `found` aside: its share is 60 of 100 binomial trials.
  asked = np.repeat([1, 0], [100, 20])[:, None]
  scores = np.r_[np.ones(60), np.zeros(60)][:, None]
  actual = adherence.measure(scores, asked, np.array([0.5])).macro["found"]
  spread = 1.96 * math.sqrt(0.6 * 0.4 / 100)
  assert actual.value == 0.6
  low, high = _ends(actual)
  assert abs(low - (0.6 - spread)) < 0.025
  assert abs(high - (0.6 + spread)) < 0.025


def test_shares_have_the_degrees_of_their_own_class():
  asked = np.repeat([1, 0], [5, 95])[:, None]
  result = adherence.measure(0.4 * asked, asked, np.array([0.5]))
  num = {name: estimates[0].patients for name, estimates in result.findings.items()}
  expected = {"auroc": 5, "average_precision": 5, "found": 5, "false_alarms": 95}
  assert num == expected
  # None of 95 was flagged, and none of 5.
  assert _ends(result.findings["false_alarms"][0])[1] < 0.05
  assert _ends(result.findings["found"][0])[1] > 0.5


def test_adherence_interval_is_over_patients(planted):
  scores, asked, thresholds = (np.repeat(x, 4, axis=0) for x in planted)
  thresholds = planted[2]
  alone, of_patients, once = (
    np.diff(_ends(adherence.measure(*given, patients=names).macro["auroc"]))
    for given, names in (
      ((scores, asked, thresholds), None),
      ((scores, asked, thresholds), np.repeat(np.arange(200), 4)),
      (planted, np.arange(200)),
    )
  )
  # Four copies of an image tell no more than one.
  assert of_patients == pytest.approx(once, rel=1e-6)
  assert of_patients > 1.6 * alone


def test_measure_keeps_intervals_finite_for_rare_findings():
  asked = np.zeros((60, 2), int)
  asked[0, 0], asked[:30, 1] = 1, 1
  scores = np.random.default_rng(0).random((60, 2))
  result = adherence.measure(scores, asked, np.full(2, 0.5), 1)
  assert result.counted.all()
  for estimate in result.macro.values():
    assert np.isfinite([estimate.value, *_ends(estimate)]).all()


def test_adherence_rejects_too_few_images(planted):
  scores, asked, thresholds = planted
  with pytest.raises(errors.InputError, match="5 images with it and one without"):
    adherence.measure(scores[:6], asked[:6], thresholds)
  with pytest.raises(errors.InputError, match="0 images"):
    adherence.measure(scores[:0], asked[:0], thresholds)


def test_measure_refuses_arrays_of_other_shapes(planted):
  scores, asked, thresholds = planted
  for wrong in (
    (scores[:-1], asked, thresholds),
    (scores, asked, thresholds[:-1]),
    (scores[:, 0], asked[:, 0], thresholds[0]),
    (np.where(scores > 4, np.nan, scores), asked, thresholds),
    (scores, asked * 2, thresholds),
  ):
    with pytest.raises(ValueError, match=r"scores|requested"):
      adherence.measure(*wrong)
