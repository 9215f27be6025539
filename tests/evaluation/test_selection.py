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


def test_choose_takes_one_condition_a_patient():
  conditions, reference = selection.choose(IDS, PATIENTS, per_patient=1)
  assert len(np.unique(PATIENTS[conditions])) == len(conditions)
  # Patients with half of the images; their other images are in neither set.
  assert not set(PATIENTS[conditions]) & set(PATIENTS[reference])
  assert 25 <= np.isin(PATIENTS, PATIENTS[conditions]).sum() < 29
  more, _ = selection.choose(IDS, PATIENTS, num=6, per_patient=2)
  assert set(more.tolist()) - set(conditions.tolist())
  first, _ = selection.choose(IDS, PATIENTS, num=3, per_patient=1)
  assert first.tolist() == conditions[:3].tolist()
  with pytest.raises(errors.InputError, match=r"at most 20, .* 1 a patient; fix: ask"):
    selection.choose(IDS, PATIENTS, num=21, per_patient=1)


def test_choose_separates_the_patients_of_condition_images():
  partners = np.roll(np.arange(50), 7)
  conditions, reference = selection.choose(
    IDS, PATIENTS, num=5, per_patient=1, partners=[partners]
  )
  shown = PATIENTS[np.concatenate([conditions, partners[conditions]])]
  assert not set(shown) & set(PATIENTS[reference])


def test_choose_takes_some_patients_first():
  conditions, reference = selection.choose(IDS, PATIENTS, num=6, first=PATIENTS[-7:])
  assert set(PATIENTS[conditions]) <= set(PATIENTS[-7:])
  assert not set(PATIENTS[conditions]) & set(PATIENTS[reference])


def test_common_keeps_images_with_a_condition_in_every_run():
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


def test_common_refuses_runs_without_a_shared_condition():
  with pytest.raises(errors.InputError, match="no image of the split has a condition"):
    selection.common([np.array([True, False]), np.array([False, True])])
