"""Each figure of a classifier says what it is, and why where it has none."""

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation.judges import adherence

NAMES = ("Mass", "Nodule", "Edema", "Hernia")


@pytest.fixture
def figures() -> adherence.Adherence:
  """60 images: Mass is seen well, Nodule by chance, Edema always, Hernia never."""
  rng = np.random.default_rng(0)
  asked = np.zeros((60, 4))
  asked[:20, 0] = asked[10:40, 1] = asked[:, 2] = 1
  scores = rng.random((60, 4))
  scores[:, 0] += asked[:, 0]
  return adherence.measure(scores, asked, np.full(4, 0.8))


def test_to_measurements_describes_every_figure(figures):
  result = adherence.to_measurements(figures, NAMES, judge="probe", standin=True)
  by_key = {(one.metric, one.group): one for one in result}
  assert len(by_key) == len(result) == 4 * 5
  macro = by_key["auroc", "all"]
  assert macro.value == figures.macro["auroc"].value
  assert macro.low < macro.value < macro.high
  mass = by_key["auroc", "finding: Mass"]
  assert mass.value == figures.values["auroc"][0] > 0.95
  assert mass.low <= mass.value <= mass.high
  assert (mass.num, mass.standin, mass.better) == (60, True, "higher")
  assert by_key["false_alarms", "finding: Mass"].better == "lower"


def test_to_measurements_leaves_a_single_class_undefined(figures):
  result = adherence.to_measurements(figures, NAMES, judge="probe")
  reported = {one.group: one for one in result if one.metric == "auroc"}
  for name, word in (("Hernia", "no image of 60"), ("Edema", "every image of 60")):
    assert reported[f"finding: {name}"].value is None
    assert reported[f"finding: {name}"].reason == f"{word} has it: one class alone"


def test_to_measurements_refuses_other_numbers_of_names(figures):
  with pytest.raises(IndexError):
    adherence.to_measurements(figures, (*NAMES, "Mass"), judge="probe")


def test_measure_gives_each_finding_its_own_interval(figures):
  rng = np.random.default_rng(0)
  asked = (rng.random((60, 1)) > 0.5).astype(float)
  scores = rng.random((60, 1))
  result = adherence.measure(scores, asked, np.array([0.5]))
  for name in adherence.NAMES:
    np.testing.assert_allclose(
      result.findings[name][0].deviations, result.macro[name].deviations
    )
