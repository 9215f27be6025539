"""The arms' settings, and the images of a fraction."""

import itertools

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation.metrics.utility_arms import (
  UtilitySettings,
  share_rows,
)


def test_share_rows_are_nested_and_of_whole_patients():
  patients = np.repeat(np.arange(40), [1, 2, 3, 4] * 10)
  for seed in (0, 1):
    rows = [share_rows(patients, x, seed) for x in (0.07, 0.1, 0.3, 1.0)]
    assert [len(x) for x in rows] == [7, 10, 30, 100]
    for small, large in itertools.pairwise(rows):
      assert set(small) < set(large)
    # All patients but the last are whole.
    taken, whole = np.bincount(patients[rows[2]], minlength=40), np.bincount(patients)
    assert ((taken > 0) & (taken < whole)).sum() <= 1
    assert rows[3].tolist() == list(range(100))
  assert share_rows(patients, 0.3, 0).tolist() != share_rows(patients, 0.3, 1).tolist()


@pytest.mark.parametrize(
  "wrong",
  [
    {"fractions": (0.0, 1.0)},
    {"fractions": (1.5,)},
    {"seeds": ()},
    {"seeds": (1, 1)},
    {"ratios": ()},
    {"ratios": (2, 2)},
    {"ratios": (0, 1)},
    {"ratios": (6,)},
  ],
)
def test_utility_settings_refuse_values_out_of_range(wrong):
  with pytest.raises(errors.InputError, match="settings of utility"):
    UtilitySettings(**wrong)
