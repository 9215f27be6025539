"""Conditions and what they are compared with share no patient, in any order."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation import selection

PATIENTS = np.repeat(np.arange(20), [1, 2, 3, 4] * 5)
IDS = np.array([f"{n:03d}" for n in range(len(PATIENTS))])


def test_choose_separates_patients():
  conditions, reference = selection.choose(IDS, PATIENTS)
  assert len(conditions) == 25
  assert not set(PATIENTS[conditions]) & set(PATIENTS[reference])
  assert len(set(conditions.tolist())) == 25
  assert reference.tolist() == sorted(reference.tolist())


def test_choose_keeps_the_first_conditions():
  few, _ = selection.choose(IDS, PATIENTS, num=7)
  many, _ = selection.choose(IDS, PATIENTS, num=20)
  assert many[:7].tolist() == few.tolist()
  # Not those that happen to come first.
  assert few.tolist() != list(range(7))


def test_only_what_every_run_has_a_condition_for_is_asked():
  usable = np.arange(50) % 2 == 0
  conditions, reference = selection.choose(IDS, PATIENTS, usable=usable, num=10)
  assert usable[conditions].all()
  assert not usable[reference].all()
  both = selection.common([usable, np.arange(50) % 3 == 0])
  assert np.flatnonzero(both).tolist() == list(range(0, 50, 6))


@pytest.mark.parametrize("num", [51, 50])
def test_choose_rejects_an_empty_reference(num):
  with pytest.raises(errors.InputError, match=r"--num 51|no other patient's image"):
    selection.choose(IDS, PATIENTS, num=num)


def test_runs_without_a_condition_in_common_are_refused():
  with pytest.raises(errors.InputError, match="no image of the split has a condition"):
    selection.common([np.array([True, False]), np.array([False, True])])
