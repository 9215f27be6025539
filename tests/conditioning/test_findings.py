"""Labels become tokens: each its own place, mixtures between, unknown ones none."""

import numpy as np
import pytest

from cxr_diffusion_jax.conditioning import findings

CONDITIONER = findings.Conditioner(shape=(14,))


@pytest.fixture
def batch():
  return {
    "findings": np.eye(14, dtype=np.float32)[[2, 2, 5]],
    "age": np.array([40.0, 45.0, np.nan], np.float32),
    "sex": np.array([0, 1, -1]),
    "view": np.array([1, -1, 0]),
  }


def test_conditioner_encodes_present_and_absent_as_different_one_hots(batch):
  (stream,) = CONDITIONER(batch)
  tokens = np.asarray(stream.tokens)
  for row, result in ((0, 2), (2, 5)):
    for finding in range(14):
      wanted = np.zeros(2 * 14 + 15)
      wanted[2 * finding + (finding != result)] = 1
      np.testing.assert_array_equal(tokens[row, finding], wanted)


def test_conditioner_places_view_sex_and_age_apart(batch):
  (stream,) = CONDITIONER(batch)
  tokens, mask = np.asarray(stream.tokens), np.asarray(stream.mask)
  np.testing.assert_array_equal(mask[:, 14:], [[1, 1, 1], [0, 1, 1], [1, 0, 0]])
  assert tokens[0, 14].argmax() == 29
  assert tokens[2, 14].argmax() == 28
  assert tokens[0, 15].argmax() == 30
  assert tokens[1, 15].argmax() == 31
  assert tokens[0, 16].argmax() == 32 + 4
  # Five years lie halfway between two bumps.
  assert tokens[1, 16, 36] == pytest.approx(tokens[1, 16, 37])
  assert tokens[1, 16, 36] == pytest.approx(np.exp(-0.125), rel=1e-5)


def test_conditioner_gives_each_source_a_token_of_its_own(batch):
  several = findings.Conditioner(source_token=True, num_sources=2, shape=(14,))
  batch["source"] = np.array([0, -1, 1])
  (stream,), (without,) = several(batch), CONDITIONER(batch)
  np.testing.assert_array_equal(stream.tokens[:, :17, :43], without.tokens)
  assert not stream.tokens[:, :17, 43:].any()
  np.testing.assert_array_equal(stream.mask[:, 17], [True, False, True])
  np.testing.assert_array_equal(stream.tokens[0, 17], np.eye(45)[43])
  np.testing.assert_array_equal(stream.tokens[2, 17], np.eye(45)[44])


def test_conditioner_mixes_fractional_findings(batch):
  batch["findings"][0, 2] = 0.25
  (stream,) = CONDITIONER(batch)
  np.testing.assert_allclose(stream.tokens[0, 2, 4:6], [0.25, 0.75])


def test_conditioner_ignores_unknown_findings(batch):
  batch["findings"][1] = np.nan
  (stream,) = CONDITIONER(batch)
  assert not stream.mask[1, :14].any()
  assert stream.mask[1, 15:].all()
  assert stream.mask[0, :14].all()
