"""Whether somebody who sees generated images alone could tell who was trained on.

distance of a real image to the nearest generated one
  -> shorter for training images than for unseen ones? -> AUROC, 0.5 for nothing

The simplest attack there is (Hilprecht et al. 2019, "Monte Carlo and reconstruction
membership inference attacks against generative models"). It is an average: 0.5 does not
acquit a model that copied a handful of images, which `duplicates` would list.
"""

from collections.abc import Callable

import numpy as np

from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.metrics import neighbours
from cxr_diffusion_jax.evaluation.statistics import cluster_bootstrap

# Of training and of unseen images each.
MIN_IMAGES = 20


def sample(
  train_patients: np.ndarray, test_patients: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Chooses as many training images as unseen ones: rows of each, sorted.

  Unseen images of a patient who was trained on are no non-members, and are left out.

  Args:
    train_patients: [m].
    test_patients: [t].
    seed: of the choice.
  """
  generator = np.random.default_rng(seed)
  unseen = np.flatnonzero(~np.isin(test_patients, train_patients))
  count = min(len(unseen), len(train_patients))
  members = generator.choice(len(train_patients), count, replace=False)
  return np.sort(members), np.sort(generator.choice(unseen, count, replace=False))


def distances(
  real: np.ndarray,
  real_patients: np.ndarray,
  generated: np.ndarray,
  generated_patients: np.ndarray | None,
) -> np.ndarray:
  """Distance of each real image to the nearest generated image: [n].

  Images that were generated from a condition of the same patient do not count: they are
  near because they were asked to be, and would pass for the opposite of membership
  where conditions are of unseen images. Infinite where no others are left.

  Args:
    real: [n d].
    real_patients: [n].
    generated: [g d].
    generated_patients: [g] of the condition, None if unknown.
  """
  if not len(real):
    return np.zeros(0)
  if generated_patients is None:
    return neighbours.nearest(real, generated, 1)[0][:, 0]
  own = np.isin(generated_patients, real_patients)
  _, counts = np.unique(generated_patients[own], return_counts=True)
  k = min(1 + int(counts.max(initial=0)), len(generated))
  found, rows = neighbours.nearest(real, generated, k)
  others = generated_patients[rows] != real_patients[:, None]
  return np.where(others, found, np.inf).min(axis=1)


def auroc(
  members: np.ndarray,
  others: np.ndarray,
  *,
  groups: tuple[np.ndarray, np.ndarray],
  estimate_fn: Callable[..., adherence.Estimate] = cluster_bootstrap.estimate,
) -> adherence.Estimate:
  """P(a training image is nearer than an unseen one), ties one half.

  Args:
    members: [a] finite distances of training images, by `distances`.
    others: [b] of unseen ones.
    groups: patients [a] and [b], who are resampled whole.
    estimate_fn: `cluster_bootstrap.estimate`, with replicates and seed if need be.

  Returns:
    The AUROC in [0, 1] and its 95 % interval.
  """
  scores = -np.concatenate([members, others])
  positive = np.arange(len(scores)) < len(members)
  return estimate_fn(
    lambda *weights: adherence.auroc(scores, positive, np.concatenate(weights, axis=1)),
    groups,
  )
