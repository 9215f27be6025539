"""Another image of the same patient: the next, else the one before, else none."""

import numpy as np

from cxr_diffusion_jax.data import pipeline


def test_next_then_before_then_none():
  patient = np.array([7, 7, 7, 3, 9, 9])
  np.testing.assert_array_equal(pipeline.other_image(patient), [1, 2, 1, -1, 5, 4])


def test_rows_of_a_patient_need_not_stand_together():
  patient = np.array([1, 2, 1, 2, 1, 4])
  np.testing.assert_array_equal(pipeline.other_image(patient), [2, 3, 4, 1, 2, -1])


def test_a_partner_is_another_row_of_the_same_patient():
  patient = np.random.default_rng(0).integers(0, 300, 1000)
  partner = pipeline.other_image(patient)
  result = partner >= 0
  np.testing.assert_array_equal(patient[partner[result]], patient[result])
  assert (partner[result] != np.flatnonzero(result)).all()
  alone = np.isin(patient, np.flatnonzero(np.bincount(patient) == 1))
  np.testing.assert_array_equal(~result, alone)


def test_nobody_has_none():
  assert pipeline.other_image(np.array([], int)).shape == (0,)
