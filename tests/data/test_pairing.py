"""Another image of the same patient, or of another patient with the same labels."""

import numpy as np

from cxr_diffusion_jax.data import pairing


def test_other_image_is_the_next_then_the_previous_then_none():
  patient = np.array([7, 7, 7, 3, 9, 9])
  np.testing.assert_array_equal(pairing.other_image(patient), [1, 2, 1, -1, 5, 4])


def test_other_image_finds_scattered_rows():
  patient = np.array([1, 2, 1, 2, 1, 4])
  np.testing.assert_array_equal(pairing.other_image(patient), [2, 3, 4, 1, 2, -1])


def test_other_image_is_another_row_of_the_same_patient():
  patient = np.random.default_rng(0).integers(0, 300, 1000)
  partner = pairing.other_image(patient)
  result = partner >= 0
  np.testing.assert_array_equal(patient[partner[result]], patient[result])
  assert (partner[result] != np.flatnonzero(result)).all()
  alone = np.isin(patient, np.flatnonzero(np.bincount(patient) == 1))
  np.testing.assert_array_equal(~result, alone)


def test_other_image_of_no_rows_is_empty():
  assert pairing.other_image(np.array([], int)).shape == (0,)


def test_other_patient_has_the_same_labels():
  labels = np.array([[0], [0], [0], [1], [1], [0], [2]])
  patient = np.array([5, 5, 6, 5, 7, 8, 9])
  # 5's two images get 6's only one; 8 comes round to 5.
  expected = [2, 2, 5, 4, 3, 0, -1]
  np.testing.assert_array_equal(pairing.other_patient(labels, patient), expected)


def test_other_patient_is_none_only_where_there_is_none():
  rng = np.random.default_rng(0)
  labels, patient = rng.integers(0, 6, (800, 2)), rng.integers(0, 60, 800)
  labels[:7] = 9, 9
  patient[:7] = 60
  partner = pairing.other_patient(labels, patient)
  assert (partner[:7] == -1).all()
  assert (partner[7:] >= 0).all()
  np.testing.assert_array_equal(labels[partner[7:]], labels[7:])
  assert (patient[partner[7:]] != patient[7:]).all()
  # Spread over images, not all on a few.
  assert np.bincount(partner[7:], minlength=800).max() < 20
  assert pairing.other_patient(labels[:0], patient[:0]).shape == (0,)


def test_other_patient_shares_what_is_unknown():
  labels = np.array([[0, np.nan], [0, 0], [0, np.nan], [0, 0]])
  expected = [2, 3, 0, 1]
  np.testing.assert_array_equal(pairing.other_patient(labels, np.arange(4)), expected)
