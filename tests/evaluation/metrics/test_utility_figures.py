"""Intervals of utility are over patients and seeds."""

import dataclasses
import math

import numpy as np
from scipy import stats

from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.metrics import utility_figures


def _test_set(count, patients=None):
  findings = np.zeros((count, 14), np.uint8)
  findings[::3, 0], findings[::2, 1] = 1, 1
  return utility_figures.TestSet(
    vocabulary=metadata.FINDINGS,
    findings=findings,
    patients=np.arange(count) if patients is None else patients,
    counted=np.arange(14) < 2,
    judge="",
  )


def test_measurement_interval_covers_images_and_seeds(monkeypatch):
  generator = np.random.default_rng(0)
  test = _test_set(150)
  clean = test.findings[:, 0] + generator.standard_normal(150)

  def spread(scores):
    drawn = utility_figures.sample(test, "auroc", np.stack(scores)[..., None])
    figure = utility_figures.measurement(test, "real_macro_auroc", drawn, 0, num=1)
    return drawn.values[:, 0].mean(), (figure.high - figure.low) / 2

  test = dataclasses.replace(
    test, findings=test.findings[:, :1], counted=test.counted[:1]
  )
  monkeypatch.setattr(
    statistics,
    "interval",
    lambda v, parts, b: (v, v + 2 * math.sqrt(sum(variance for variance, _ in parts))),
  )
  value, alone = spread([clean])
  # Hanley and McNeil 1982, equation 1: the standard error of an area.
  q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
  p, n = 50, 100
  error = value * (1 - value) + (p - 1) * (q1 - value**2) + (n - 1) * (q2 - value**2)
  assert math.isclose(alone, math.sqrt(error / p / n), rel_tol=0.25)
  # Equal seeds add nothing; unequal ones the variance of their mean.
  assert math.isclose(spread([clean] * 3)[1], alone, rel_tol=1e-9)
  seeds = [clean, generator.standard_normal(150), -clean]
  areas = [spread([x])[0] for x in seeds]
  both = spread(seeds)
  assert math.isclose(both[0], np.mean(areas))
  assert math.isclose(both[1], np.std(areas, ddof=1) / math.sqrt(3), rel_tol=0.15)


def test_measurement_interval_has_the_degrees_of_seeds_and_of_the_fewer_class():
  generator = np.random.default_rng(0)
  base = _test_set(300)

  def measured(count, seeds=3):
    findings = np.zeros((300, 1))
    findings[:count] = 1
    test = dataclasses.replace(base, findings=findings, counted=np.array([True]))
    scores = findings + generator.standard_normal((seeds, 300, 1))
    drawn = utility_figures.sample(test, "auroc", scores)
    figure = utility_figures.measurement(test, "tstr_auroc_difference", drawn, 0, num=1)
    error = statistics.standard_error(drawn.deviations[:, 0])
    return figure, error, drawn.values[:, 0].std() / math.sqrt(2)

  figure, error, between = measured(100)
  reach = math.hypot(stats.t.ppf(0.975, 99) * error, stats.t.ppf(0.975, 2) * between)
  assert math.isclose(figure.value - figure.low, reach, rel_tol=1e-6)
  figure, error, _ = measured(8, 1)
  reach = stats.t.ppf(0.975, 7) * error
  assert math.isclose(figure.value - figure.low, reach, rel_tol=1e-6)
  assert measured(4)[0].low is None


def test_figures_of_unknown_findings_are_those_of_the_known_images():
  base = _test_set(90)
  scores = base.findings[None] + np.random.default_rng(0).standard_normal((2, 90, 14))
  findings = base.findings.astype(np.float32)
  findings[:30, 0] = np.nan
  test = dataclasses.replace(base, findings=findings)
  drawn = utility_figures.sample(test, "auroc", scores)
  rows = slice(30, None)
  alone = dataclasses.replace(
    base, findings=base.findings[rows], patients=base.patients[rows]
  )
  expected = utility_figures.sample(alone, "auroc", scores[:, rows])
  np.testing.assert_allclose(drawn.values[:, 0], expected.values[:, 0])
  figure = utility_figures.measurement(test, "tstr_auroc", drawn, 0, num=1)
  assert (figure.num_real, figure.real_patients) == (60, 60)
  figure = utility_figures.measurement(test, "tstr_macro_auroc", drawn, 14, num=1)
  assert figure.num_real == 90


def test_sample_draws_whole_patients():
  generator = np.random.default_rng(0)
  base = _test_set(60)
  scores = base.findings[None, :, :1] + generator.standard_normal((1, 60, 1))
  wide = {}
  for name, repeat in (("images", False), ("patients", True)):
    test = dataclasses.replace(
      base,
      findings=np.repeat(base.findings[:, :1], 4, axis=0),
      patients=np.repeat(np.arange(60), 4) if repeat else np.arange(240),
      counted=np.array([True]),
    )
    drawn = utility_figures.sample(test, "auroc", np.repeat(scores, 4, axis=1))
    wide[name] = statistics.standard_error(drawn.deviations[:, 0])
  # Four copies of an image tell no more than one.
  assert math.isclose(wide["patients"] / wide["images"], 2.0, rel_tol=0.2)
