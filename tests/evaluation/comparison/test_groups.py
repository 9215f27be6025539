"""Groups are compared by what they have above their own floor, patient by patient."""

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.comparison import groups
from cxr_diffusion_jax.evaluation.measurement import Measurement

PATIENTS = np.arange(300)


def _figure(group: str, rows: np.ndarray, values: np.ndarray, of: str) -> Measurement:
  figure = statistics.linear(values[rows].mean(), (values[rows], PATIENTS[rows]))
  return Measurement(
    subject="fidelity",
    metric="frechet_distance",
    num=int(rows.sum()),
    judge="probe",
    group=group,
    of=of,
    better="lower",
    **figure.fields(),
  )


@pytest.fixture
def tables():
  """Women's images have 1.0 more than men's, on a floor that all patients share."""
  rng = np.random.default_rng(0)
  floor = 5 + 3 * rng.standard_normal(300)
  women = np.arange(300) < 120
  generated = floor + 2 + women + 0.2 * rng.standard_normal(300)
  parts = {"sex: F": women, "sex: M": ~women, "all": np.ones(300, bool)}
  return [
    [_figure(group, rows, values, of) for group, rows in parts.items()]
    for of, values in (("generated", generated), ("real", floor))
  ]


def test_groups_are_measured_above_their_own_floor(tables):
  women, men = groups.figures(*tables)
  assert (women.group, women.num, women.against) == ("sex: F", 120, "sex: M")
  assert (men.group, men.against, men.difference) == ("sex: M", "", None)
  assert women.above == pytest.approx(3, abs=0.1)
  # Paired: the floor varies by 3 between patients, the figure above it by .2.
  low, high = women.interval
  assert low < 3 < high < low + 0.2
  assert women.difference == pytest.approx(1, abs=0.1)
  low, high = women.difference_interval
  assert low < 1 < high < low + 0.2


def test_groups_of_other_numbers_or_without_intervals_are_omitted(tables):
  generated, real = tables
  few = _figure("sex: F", PATIENTS < 100, np.arange(300.0), "real")
  assert [one.group for one in groups.figures(generated, [few, *real[1:]])] == [
    "sex: M"
  ]
  assert groups.figures(generated, []) == []
