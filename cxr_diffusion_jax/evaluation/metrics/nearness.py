"""Figures of nearness, of generated images and of real test images.

distances [n], real [t] -> their 1, 5 and 50 % quantiles
                        -> share nearer than the 1 and 5 % quantile of the real ones
copies                  -> shares
"""

from collections.abc import Callable
import dataclasses
import functools
import math

import numpy as np

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import neighbours

# Percent -> minimum number of images. Intervals of quantiles hold .91 there; of 100 and
# of 20 images, .84 and .88.
QUANTILES = {1: 400, 5: 100, 50: 2}

# Percent -> unseen images, of which three are nearer than the quantile: of 100 and of
# 20, chance alone reports a leak in up to 12 % of cases; of these, in 8 %.
SHARES = {1: 300, 5: 60}

# Images of training, and unseen images, below which membership is undefined.
MIN_IMAGES = 20


_share = functools.partial(
  Metric, subject="privacy", direction="lower", bounds=(0.0, 1.0)
)

METRICS = (
  *(
    Metric(
      name=f"distance_to_{to}_p{percent}",
      subject="privacy",
      meaning=f"Distance of features to the {what}: its {percent} % quantile.",
      bounds=(0.0, math.inf),
      minimum_n=least,
    )
    for to, what in (
      ("training", "nearest training image"),
      ("condition", "image that the condition came from"),
    )
    for percent, least in QUANTILES.items()
  ),
  *(
    _share(
      name=f"nearer_to_{to}_than_real_p{percent}",
      meaning=f"Share of images that are nearer than {percent} % of real test images"
      " are to training images.",
      minimum_n=least,
    )
    for to in ("training", "condition")
    for percent, least in SHARES.items()
  ),
  _share(
    name="patient_identified",
    meaning="How often the nearest conditioning image is of the generated image's own"
    " patient.",
  ),
  _share(
    name="exact_copies", meaning="Images with exactly the pixels of a training image."
  ),
  _share(
    name="copies",
    meaning="Images more similar to a training image than real test images almost ever"
    " are.",
  ),
  _share(
    name="membership_auroc",
    meaning="AUROC of distinguishing training images from others; 0.5: nothing leaks.",
    minimum_n=MIN_IMAGES,
  ),
)
_RECORDS = {record.name: record for record in METRICS}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RealDistances:
  """Distances of real test images, and the network of the features."""

  distances: np.ndarray  # [t] of test images to their nearest training images
  groups: np.ndarray  # [t] names of patients
  num_training: int
  judged: Fields
  seed: int = 0

  def figure(
    self, metric: str, fields: Fields, figure: Fields | statistics.Estimate
  ) -> Measurement:
    """A measurement by this judge."""
    return _RECORDS[metric].measurement(self.judged, figure, fields)


def measure(
  real: RealDistances,
  distances: np.ndarray,
  groups: np.ndarray,
  *,
  to: str,
  num_real: int,
) -> list[Measurement]:
  """Quantiles of distances, and shares that are nearer than real images are."""
  sides = {
    "generated": (distances, groups, num_real),
    "real": (real.distances, real.groups, real.num_training),
  }
  measurements = []
  for of, (values, names, count) in sides.items():
    fields = Fields(num=len(values), num_real=count, of=of)
    figures = [
      (f"distance_to_{to}_p{p}", len(values), _quantile_fn(values, p), [names])
      for p in QUANTILES
    ] + [
      (
        f"nearer_to_{to}_than_real_p{p}",
        len(real.distances),
        share_nearer_fn(values, real.distances, p),
        [names, real.groups],
      )
      for p in SHARES
    ]
    for metric, num, figure_fn, samples in figures:
      least = _RECORDS[metric].minimum_n
      if num < least:
        kind = "images" if len(samples) == 1 else "unseen images"
        reason = f"{num} {kind}, expected at least {least}"
        figure = Fields(value=None, reason=reason)
      else:
        figure = statistics.estimate(figure_fn, *samples)
      measurements.append(real.figure(metric, fields, figure))
  return measurements


def to_conditions(
  real: RealDistances,
  features: np.ndarray,
  conditioning: np.ndarray,
  groups: np.ndarray,
  patients: np.ndarray | None,
) -> list[Measurement]:
  """`measure` for the images that conditions came from, and `identified`."""
  distances = np.linalg.norm(features.astype(np.float64) - conditioning, axis=1)
  num_real = len(np.unique(conditioning, axis=0))
  return [
    *measure(real, distances, groups, to="condition", num_real=num_real),
    identified(real, features, conditioning, patients),
  ]


def identified(
  real: RealDistances,
  features: np.ndarray,
  conditioning: np.ndarray,
  patients: np.ndarray | None,
) -> Measurement:
  """Share of images whose nearest conditioning image is of their own patient.

  1 where the image reveals the patient, 1 / patients by chance. Arguments as of
  `to_conditions`; without patients, each conditioning image is one.
  """
  if patients is None:
    _, patients = np.unique(conditioning, axis=0, return_inverse=True)
  _, rows = neighbours.nearest(features, conditioning, 1)
  hits = patients[rows[:, 0]] == patients
  fields = Fields(num=len(features), num_real=len(np.unique(conditioning, axis=0)))
  figure = statistics.linear(hits.mean(), (hits, patients))
  return real.figure("patient_identified", fields, figure)


def copies(
  real: RealDistances, metric: str, copied: np.ndarray, groups: np.ndarray, of: str
) -> Measurement:
  """Share of images [n] that are copies of training images."""
  fields = Fields(num=len(copied), num_real=real.num_training, of=of)
  if metric == "exact_copies":
    # Equal pixels are equal for any judge.
    fields |= Fields(judge="", standin=False)
  return real.figure(metric, fields, statistics.linear(copied.mean(), (copied, groups)))


def _quantile_fn(values: np.ndarray, percent: int) -> Callable[..., np.ndarray]:
  return lambda weights: statistics.quantile(values, weights, percent / 100)


def share_nearer_fn(
  values: np.ndarray, real: np.ndarray, percent: int
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """(weights of values [r n], of real ones [r t]) -> share nearer than the quantile.

  The quantile is the k-th nearest of t real ones, k = floor(p (t + 1)): a value of
  their distribution is nearer with probability k / (t + 1), p at most. At least
  100 / percent - 1 real ones are needed.
  """
  share = percent * (len(real) + 1) // 100 / len(real)

  def share_nearer(weights: np.ndarray, real_weights: np.ndarray) -> np.ndarray:
    limits = statistics.quantile(real, real_weights, share)
    nearer = values < limits[:, None]
    return (weights * nearer).sum(axis=1) / weights.sum(axis=1)

  return share_nearer
