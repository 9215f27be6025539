"""Whether generated images alone reveal which images were trained on.

distance of a real image to the nearest generated one
  -> shorter for training images than for unseen ones? -> AUROC, 0.5 for no leak

The simplest attack (Hilprecht et al. 2019, "Monte Carlo and reconstruction membership
inference attacks against generative models"). It is an average: 0.5 does not clear a
model that copied a few images, which `duplicates` lists.
"""

from collections.abc import Callable

import numpy as np

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metrics import nearness, neighbours, ranking

# Percent of unseen images that may be mistaken for training images, and how many
# unseen images that takes.
FALSE_PERCENT = 1
MIN_FOR_TPR = nearness.SHARES[FALSE_PERCENT]


def measure(
  real: nearness.RealDistances,
  features: np.ndarray,
  of_generated: np.ndarray | None,
  *,
  training: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
) -> Measurement:
  """AUROC of training against unseen images: of each features [n d], patients [n]."""
  chosen, unseen = choose(training[1], test[1], seed=real.seed)
  sides = []
  for (values, patients), rows in ((training, chosen), (test, unseen)):
    gap = distances(values[rows], patients[rows], features, of_generated)
    # Infinite where all generated images are of the patient's own conditions.
    known = np.isfinite(gap)
    sides.append((gap[known], patients[rows][known]))
  (members, of_members), (others, of_others) = sides
  fewest = min(len(members), len(others))
  fields = Fields(num=len(features), num_real=2 * fewest)
  if fewest < nearness.MIN_IMAGES:
    reason = (
      f"{fewest} images trained on, or of unseen patients; expected"
      f" {nearness.MIN_IMAGES} of each"
    )
    return real.figure("membership_auroc", fields, Fields(value=None, reason=reason))
  figure = statistics.estimate(auroc_fn(members, others), of_members, of_others)
  return real.figure("membership_auroc", fields, figure)


def choose(
  train_patients: np.ndarray, test_patients: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Chooses as many training images as unseen ones: rows of each, sorted.

  Unseen images of a patient in training are neither, and are left out.
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
  """Distance of each real image [n d] to the nearest generated image [g d]: [n].

  Images generated from a condition of the same patient do not count: their conditions
  make them near, which would look like the opposite of membership where conditions are
  of unseen images. Infinite where no others are left.
  """
  if not len(real):
    return np.zeros(0)
  if generated_patients is None:
    return neighbours.nearest(real, generated, 1)[0][:, 0]
  own = np.isin(generated_patients, real_patients)
  _, counts = np.unique(generated_patients[own], return_counts=True)
  k = min(1 + int(counts.max(initial=0)), len(generated))
  gaps, rows = neighbours.nearest(real, generated, k)
  others = generated_patients[rows] != real_patients[:, None]
  return np.where(others, gaps, np.inf).min(axis=1)


def auroc_fn(members: np.ndarray, others: np.ndarray) -> Callable[..., np.ndarray]:
  """The `figure_fn` of P(a training image is nearer than an unseen one)."""
  scores = -np.concatenate([members, others])
  positive = np.arange(len(scores)) < len(members)
  return lambda *weights: ranking.auroc(
    scores, positive, np.concatenate(weights, axis=1)
  )


def tpr_fn(members: np.ndarray, others: np.ndarray) -> Callable[..., np.ndarray]:
  """The `figure_fn` of P(a training image is nearer than 99 % of unseen ones)."""
  return nearness.share_nearer_fn(members, others, FALSE_PERCENT)
