"""`data/balance.py`: realised shares of rare findings are those of the closed form."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import balance

NUM, CAP = 1000, 10.0


@pytest.fixture(scope="module")
def findings():
  """Shares of NIH's order: 18 %, 5 %, .2 %, and one that no row has."""
  rates = np.array([0.18, 0.05, 0.002, 0.0])
  rows = (np.random.default_rng(0).random((NUM, 4)) < rates).astype(np.float32)
  rows[:3, 2] = 1
  # Unknown is not present.
  rows[rows[:, 0] == 0, 3] = np.nan
  return rows


def drawn(findings: np.ndarray, epochs: int, seed: int = 0) -> np.ndarray:
  """[epochs n] rows, in the order of places."""
  sampler = balance.Sampler.make(findings, CAP, seed)
  return np.array(
    [[sampler(e * NUM + p, p) for p in range(NUM)] for e in range(epochs)]
  )


def test_weights_are_the_inverse_frequency_of_the_rarest_finding(findings):
  present = findings > 0.5
  counts = present.sum(axis=0)
  weights = balance.weights(findings, CAP)
  for row, weight in zip(present, weights, strict=True):
    rarest = counts[row].min() if row.any() else counts[0]
    assert weight == min(counts[0] / rarest, CAP)
  assert weights[~present.any(axis=1)].max() == 1
  assert weights[2] == CAP
  assert (balance.weights(findings, 1.0) == 1).all()
  assert (balance.weights(np.full((5, 2), np.nan), CAP) == 1).all()


def test_realised_shares_are_those_of_the_closed_form(findings):
  weights = balance.weights(findings, CAP)
  wanted = (findings > 0.5).T @ weights / weights.sum()
  np.testing.assert_allclose(balance.shares(findings, CAP), wanted)
  epochs = drawn(findings, 3)
  expected = NUM * weights / weights.sum()
  for rows in epochs:
    counts = np.bincount(rows, minlength=NUM)
    # Each row as often as it should be, rounded down or up.
    assert (counts >= np.floor(expected)).all()
    assert (counts <= np.ceil(expected)).all()
    shares = (findings[rows] > 0.5).mean(axis=0)
    np.testing.assert_allclose(shares, wanted, atol=0.01)
  assert wanted[2] > 4 * (findings[:, 2] > 0.5).mean()
  # Other rows are left out in other epochs.
  assert (np.bincount(epochs.ravel(), minlength=NUM) == 0).sum() < (
    np.bincount(epochs[0], minlength=NUM) == 0
  ).sum()


def test_rows_are_a_function_of_seed_and_number(findings):
  epochs = drawn(findings, 2)
  sampler = balance.Sampler.make(findings, CAP, 0)
  assert sampler(NUM + 7, 7) == epochs[1, 7]
  assert not np.array_equal(drawn(findings, 1, seed=1)[0], epochs[0])
  equal = balance.Sampler.make(findings, 1.0, 0)
  assert [equal(2 * NUM + p, p) for p in range(NUM)] == list(range(NUM))


def test_summary_gives_shares_before_and_after(findings):
  text = balance.summary(findings, ("a", "b", "c", "d"), CAP)
  assert text.endswith("d 0.00% -> 0.00%")
  assert text.count("->") == 4


@pytest.mark.parametrize("cap", [-1, 0.5, np.nan, np.inf])
def test_check_refuses_impossible_caps(cap):
  with pytest.raises(errors.InputError, match=r"config\.data\.balance"):
    balance.check(cap)
