"""Intervals of figures of images that come in clusters: of one patient, one condition.

groups [n] -> drawn whole, with replacement -> weights [r n] -> [r] -> 2.5, 97.5 %

Davison and Hinkley 1997, section 3.8: images of one patient resemble each other, so
that as many drawn one by one would promise too narrow an interval.
"""

from collections.abc import Callable, Sequence

import numpy as np

from cxr_diffusion_jax.evaluation.judges.adherence import Estimate

# Replicates that are computed at once: n weights stand in memory for each.
_BLOCK = 64


def estimate(
  figure_fn: Callable[..., np.ndarray],
  groups: Sequence[np.ndarray],
  *,
  num_replicates: int = 1000,
  seed: int = 0,
) -> Estimate:
  """The figure of samples of images, and its 95 % interval.

  Args:
    figure_fn: (weights [r n] of the first sample, ... of the second, ...) -> [r]; a
      weight says how often an image counts.
    groups: one [n] a sample: names, images of one name are drawn together.
    num_replicates: of the bootstrap.
    seed: of it.
  """
  whole = [np.ones((1, len(names))) for names in groups]
  generator, replicates = np.random.default_rng(seed), []
  for first in range(0, num_replicates, _BLOCK):
    count = min(_BLOCK, num_replicates - first)
    replicates.append(figure_fn(*(weights(x, count, generator) for x in groups)))
  low, high = np.percentile(np.concatenate(replicates), (2.5, 97.5))
  value = figure_fn(*whole)[0]
  return Estimate(value=float(value), low=float(low), high=float(high))


def weights(
  groups: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
  """How often each of n images counts, in each of r samples of groups: [r n].

  Args:
    groups: [n] names.
    count: r.
    generator: of random numbers.
  """
  names, places = np.unique(groups, return_inverse=True)
  share = np.full(len(names), 1 / len(names))
  drawn = generator.multinomial(len(names), share, size=count)
  return drawn[:, places].astype(np.float64)


def quantile(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
  """The smallest value that at least this share of the images do not exceed: [r].

  Args:
    values: [n].
    weights: [r n].
    share: in (0, 1).
  """
  order = np.argsort(values)
  reached = np.cumsum(weights[:, order], axis=1)
  # Weights are whole numbers: half a unit of the last place decides nothing.
  missing = reached < share * reached[:, -1:] - 1e-9
  return values[order][missing.sum(axis=1)]
