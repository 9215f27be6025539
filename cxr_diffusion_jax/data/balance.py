"""Training rows with rare findings, drawn more often.

findings [n k] --share of each--> weight of a row: the largest share over that of its
  rarest present finding, at most `cap`; 1 for rows without one
weights [n] --systematic sampling--> the row at each place of an epoch of n places

An epoch has one random offset u: place p is the row at (p + u) / n of the summed
weights (Madow 1949, "On the theory of systematic sampling, II"). So an epoch has each
row n w / sum(w) times, rounded down or up, and its expected number is exactly that.
"""

from collections.abc import Sequence
import dataclasses
from typing import Self

import numpy as np

from cxr_diffusion_jax import errors


def check(cap: float) -> None:
  """Raises InputError for a setting out of range."""
  if cap and not 1 <= cap < np.inf:
    raise errors.InputError(f"config.data.balance={cap:g}", "0 for none, or 1 or more")


def weights(findings: np.ndarray, cap: float) -> np.ndarray:
  """How often rows are drawn, [n] float64 in [1, cap].

  Args:
    findings: [n k] 1 present, 0 absent, nan unknown.
    cap: the largest weight, at least 1.
  """
  present = np.asarray(findings) > 0.5
  counts = present.sum(axis=0)
  # A row's rarest finding; as many as the most frequent one where it has none.
  most = max(counts.max(initial=0), 1)
  rarest = np.where(present, counts, most).min(axis=1, initial=most)
  return np.minimum(most / rarest, cap)


def shares(findings: np.ndarray, cap: float) -> np.ndarray:
  """The expected share [k] of drawn rows in which each finding is present."""
  drawn = weights(findings, cap)
  return drawn @ (np.asarray(findings) > 0.5) / drawn.sum()


def summary(findings: np.ndarray, vocabulary: Sequence[str], cap: float) -> str:
  """One line for the log: each finding's share of the rows, and of those drawn."""
  before, after = shares(findings, 1.0), shares(findings, cap)
  return ", ".join(
    f"{name} {a:.2%} -> {b:.2%}"
    for name, a, b in zip(vocabulary, before, after, strict=True)
  )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sampler:
  """Rows of an endless stream of epochs; a function of seed and number alone.

  Attributes:
    edges: [n] the summed weights of the rows up to each.
  """

  seed: int
  edges: np.ndarray

  @classmethod
  def make(cls, findings: np.ndarray, cap: float, seed: int) -> Self:
    return cls(seed=seed, edges=np.cumsum(weights(findings, cap)))

  def __call__(self, number: int, place: int) -> int:
    """The row at a place of an epoch; `number` counts rows of the stream from 0."""
    n = len(self.edges)
    offset = np.random.default_rng([self.seed, 1, number // n]).random()
    target = (place + offset) * (self.edges[-1] / n)
    return min(int(np.searchsorted(self.edges, target, side="right")), n - 1)
