"""Intervals hold over patients, and equal paths are seldom called different.

Fewer repeats and designs than `tests/benchmarks/interval_coverage.py`, whose tables are
in docs/evaluation.md.
"""

import numpy as np
import pytest

from tests.fixtures import simulations

FEW = ((90, 5), (22, 9))


@pytest.mark.parametrize(("patients", "each"), simulations.DESIGNS)
def test_interval_coverage_of_shares_and_frechet_distance(patients, each):
  for name, repeats in (("frechet_distance", 400), ("share", 2000)):
    values = simulations.intervals((name,), patients, each, repeats)[name]
    assert 0.92 <= simulations.coverage(values) <= 0.98, name


@pytest.mark.parametrize(("patients", "each"), FEW)
def test_interval_coverage_of_auroc(patients, each):
  values = simulations.intervals(("auroc",), patients, each, 300)["auroc"]
  assert 0.92 <= simulations.coverage(values) <= 0.98


@pytest.mark.parametrize(
  ("name", "repeats"),
  [("kernel_distance", 150), ("cmmd", 150), ("precision", 60), ("recall", 60)],
)
def test_interval_coverage_of_kernel_and_neighbour_figures(name, repeats):
  values = simulations.intervals((name,), 22, 9, repeats)[name]
  # Few repeats have a standard error of .03: the benchmark has the narrower limits.
  assert simulations.coverage(values) >= 0.9
  width = np.diff(values[:, 1:], axis=1).mean() / (2 * 2.08)
  assert 0.8 < width / values[:, 0].std() < 1.5


def test_interval_coverage_over_images_is_too_low():
  values = simulations.intervals(("frechet_distance",), 22, 9, 400)["frechet_distance"]
  of_patients = np.diff(values[:, 1:], axis=1).mean()
  # As wide as the spread of the figures; over images it would be half of that.
  assert of_patients > 3.5 * values[:, 0].std()


@pytest.mark.parametrize("num_paths", [2, 3, 6, 10])
def test_verdicts_seldom_separate_equal_paths(num_paths):
  assert simulations.false_verdicts("mean", num_paths, 50, 9, 400) <= 0.06


def test_verdicts_by_auroc_seldom_separate_equal_paths():
  assert simulations.false_verdicts("auroc", 6, 22, 9, 100) <= 0.06


@pytest.mark.parametrize("num_paths", [2, 6, 10])
def test_verdicts_of_two_runs_seldom_separate_equal_paths(num_paths):
  for ratio in (0.5, 6.0):
    wrong, held = simulations.false_verdicts_of_runs(num_paths, 2, ratio, 300)
    assert wrong <= 0.06
    assert held >= 0.94
