"""The table of fidelity: figures, floors, groups, and what has too few images."""

import dataclasses
import types

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation import metric as metric_lib
from cxr_diffusion_jax.evaluation.metrics import (
  fidelity,
  frechet,
  kernels,
  neighbourhoods,
)

JUDGE = types.SimpleNamespace(name="probe", layer="pooled", standin=True)


def _sets(num: int = 120, width: int = 6):
  rng = np.random.default_rng(0)
  real, generated, held_out = rng.standard_normal((3, num, width)).astype(np.float32)
  return real, generated * 0.8 + 0.5, held_out


@pytest.fixture(scope="module")
def rows():
  real, generated, held_out = _sets()
  few = np.arange(120) < 12
  some = np.arange(120) < 60
  groups = {"sex: F": (some, some), "finding: Hernia": (some, few)}
  of_real = fidelity.measure(real, held_out, extractor=JUDGE, groups=groups)
  return [
    *fidelity.measure(real, generated, extractor=JUDGE, groups=groups),
    *(dataclasses.replace(row, of="real") for row in of_real),
  ]


def test_measure_gives_each_group_its_floor(rows):
  keys = [(row.group, row.metric, row.of) for row in rows]
  assert len(set(keys)) == len(keys) == 3 * 7 * 2
  assert keys[:2] == [
    ("all", "frechet_distance", "generated"),
    ("all", "kernel_distance", "generated"),
  ]
  assert {row.judge for row in rows} == {"probe, pooled"}
  assert all(row.standin and row.subject == "fidelity" for row in rows)


def test_measure_equals_the_pure_functions_within_its_intervals(rows):
  real, generated, held_out = _sets()
  table = {(row.group, row.metric, row.of): row for row in rows}
  for group, of, judged, num in (
    ("all", "generated", generated, 120),
    ("all", "real", held_out, 120),
    ("sex: F", "generated", generated[:60], 60),
  ):
    precision, recall = neighbourhoods.precision_recall(real[:num], judged)
    density, coverage = neighbourhoods.density_coverage(real[:num], judged)
    expected = {
      "frechet_distance": frechet.frechet_distance(real[:num], judged),
      "kernel_distance": kernels.kernel_distance(judged, real[:num], 100, num // 2)[0],
      "cmmd": kernels.cmmd(real[:num], judged),
      "precision": precision,
      "recall": recall,
      "density": density,
      "coverage": coverage,
    }
    for metric, value in expected.items():
      row = table[group, metric, of]
      assert row.value == pytest.approx(value, rel=1e-6), metric
      assert row.low <= row.value <= row.high
      assert (row.num, row.num_real) == (num, num)


def test_fidelity_of_a_shift_is_significantly_above_the_floor(rows):
  table = {(row.metric, row.of): row for row in rows if row.group == "all"}
  for record in fidelity.METRICS:
    metric = record.name
    generated, floor = table[metric, "generated"], table[metric, "real"]
    if metric in ("frechet_distance", "kernel_distance", "cmmd"):
      assert generated.low > floor.high, metric
    assert generated.better == floor.better == record.direction


def test_fidelity_is_undefined_for_too_few_images(rows):
  table = {(row.group, row.metric, row.of): row for row in rows}
  for record in fidelity.METRICS:
    for of in ("generated", "real"):
      row = table["finding: Hernia", record.name, of]
      assert row.value is None
      assert row.reason == f"12 images, expected at least {record.minimum_n}"
      assert row.num == 12
  real, generated, _ = _sets()
  (row,) = fidelity.measure(
    real[:30], generated, extractor=JUDGE, metrics=fidelity.METRICS[:1]
  )
  assert row.reason == "30 real images, expected at least 50"


def test_measure_rejects_features_of_different_widths():
  real, generated, _ = _sets(30)
  with pytest.raises(errors.InputError, match="6 and 5 wide"):
    fidelity.measure(real, generated[:, 1:], extractor=JUDGE)


def test_metric_function_may_return_a_number():
  real, generated, _ = _sets(30)
  record = metric_lib.Metric(
    name="gap", subject="fidelity", fn=lambda pair: pair.num / 2
  )
  (row,) = fidelity.measure(real, generated, extractor=JUDGE, metrics=[record])
  assert (row.value, row.low, row.high) == (15.0, None, None)
