"""Figures of nearness: of generated images beside the same of real test images.

distances [n], real [t] -> their 1, 5 and 50 % quantiles
                        -> share nearer than the 1 and 5 % quantile of the real ones
counts of copies        -> shares, with Wilson's interval
"""

from collections.abc import Callable
import dataclasses

import numpy as np
import scipy.stats

from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import neighbours
from cxr_diffusion_jax.evaluation.statistics import cluster_bootstrap

# Percent. A quantile of p % needs 100 / p images: fewer have none that is nearer.
QUANTILES = (1, 5, 50)
SHARES = (1, 5)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Yardstick:
  """Real test images, and how figures are made.

  Attributes:
    distances: [t] of test images to their nearest training images.
    groups: [t] names, images of one are resampled together.
    num_training: m.
    judge: see `Measurement`.
    standin: as above.
    estimate_fn: `cluster_bootstrap.estimate` with its number of replicates and seed.
  """

  distances: np.ndarray
  groups: np.ndarray
  num_training: int
  judge: str
  standin: bool
  estimate_fn: Callable[..., cluster_bootstrap.Estimate]

  def figure(self, metric: str, value: float | None, **fields) -> Measurement:
    """A measurement by this judge."""
    fixed = {"judge": self.judge, "standin": self.standin}
    return Measurement(subject="privacy", metric=metric, value=value, **fixed | fields)


def nearness(
  yardstick: Yardstick,
  distances: np.ndarray,
  groups: np.ndarray,
  *,
  to: str,
  num_real: int,
) -> list[Measurement]:
  """Quantiles of distances, and shares that are nearer than real images are.

  Args:
    yardstick: real images.
    distances: [n] of generated images.
    groups: [n] names, images of one are resampled together.
    to: "training" or "condition": what the distances are to.
    num_real: images that they are to.
  """
  real = yardstick.distances, yardstick.groups, yardstick.num_training
  samples = {"generated": (distances, groups, num_real), "real": real}
  made = []
  for of, (values, names, count) in samples.items():
    fields = {"num": len(values), "num_real": count, "of": of}
    for percent in QUANTILES:
      made.append(
        _figure_or_reason(
          yardstick,
          f"distance_to_{to}_p{percent}",
          _quantile_fn(values, percent / 100),
          [names],
          enough=len(values) * percent >= 100,
          percent=percent,
          **fields,
        )
      )
    for percent in SHARES:
      made.append(
        _figure_or_reason(
          yardstick,
          f"nearer_to_{to}_than_real_p{percent}",
          _share_fn(values, yardstick.distances, percent / 100),
          [names, yardstick.groups],
          enough=len(yardstick.distances) * percent >= 100,
          percent=percent,
          better="lower",
          **fields,
        )
      )
  return made


def to_conditions(
  yardstick: Yardstick,
  features: np.ndarray,
  conditioning: np.ndarray,
  groups: np.ndarray,
  patients: np.ndarray | None,
) -> list[Measurement]:
  """`nearness` to the images that conditions came from, and `identified`.

  Args:
    yardstick: real images.
    features: [n d] of generated images.
    conditioning: [n d] of the images that their conditions came from.
    groups: see `nearness`.
    patients: see `identified`.
  """
  distances = np.linalg.norm(features.astype(np.float64) - conditioning, axis=1)
  num_real = len(np.unique(conditioning, axis=0))
  made = nearness(yardstick, distances, groups, to="condition", num_real=num_real)
  return [*made, identified(yardstick, features, conditioning, patients)]


def identified(
  yardstick: Yardstick,
  features: np.ndarray,
  conditioning: np.ndarray,
  patients: np.ndarray | None,
) -> Measurement:
  """Share of images whose nearest conditioning image is of their own patient.

  1 where the patient can be told from the image, one in the number of patients where
  nothing can.

  Args:
    yardstick: see there.
    features: [n d] of generated images.
    conditioning: [n d] of the images that their conditions came from.
    patients: [n] of those images; None: each image is taken for a patient.
  """
  if patients is None:
    _, patients = np.unique(conditioning, axis=0, return_inverse=True)
  _, rows = neighbours.nearest(features, conditioning, 1)
  hits = patients[rows[:, 0]] == patients
  estimate = yardstick.estimate_fn(lambda w: w @ hits / w.sum(axis=1), [patients])
  fields = {"num": len(features), "num_real": len(np.unique(conditioning, axis=0))}
  values = dataclasses.asdict(estimate)
  return yardstick.figure("patient_identified", better="lower", **values, **fields)


def copies(
  yardstick: Yardstick, metric: str, num_copies: int, num: int, of: str
) -> Measurement:
  """Share of images that are copies of training images.

  Wilson 1927's interval of a share, which is no point where no copy was found.

  Args:
    yardstick: see there.
    metric: "exact_copies", or "copies": exact or near.
    num_copies: images that are.
    num: images.
    of: see `Measurement`.
  """
  found = scipy.stats.binomtest(num_copies, num).proportion_ci(method="wilson")
  # Equal pixels are equal whoever looks.
  judged = {"judge": "", "standin": False} if metric == "exact_copies" else {}
  return yardstick.figure(
    metric,
    num_copies / num,
    low=float(found.low),
    high=float(found.high),
    num=num,
    num_real=yardstick.num_training,
    of=of,
    better="lower",
    **judged,
  )


def _figure_or_reason(
  yardstick: Yardstick,
  metric: str,
  figure_fn: Callable[..., np.ndarray],
  groups: list[np.ndarray],
  *,
  enough: bool,
  percent: int,
  **fields,
) -> Measurement:
  if not enough:
    reason = f"a quantile of {percent} % needs {-(-100 // percent)} images"
    return yardstick.figure(metric, None, reason=reason, **fields)
  estimate = yardstick.estimate_fn(figure_fn, groups)
  return yardstick.figure(metric, **dataclasses.asdict(estimate), **fields)


def _quantile_fn(values: np.ndarray, share: float) -> Callable[..., np.ndarray]:
  return lambda weights: cluster_bootstrap.quantile(values, weights, share)


def _share_fn(
  values: np.ndarray, real: np.ndarray, share: float
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """(weights of values [r n], of real ones [r t]) -> share nearer than the quantile."""

  def share_nearer(weights: np.ndarray, real_weights: np.ndarray) -> np.ndarray:
    limits = cluster_bootstrap.quantile(real, real_weights, share)
    nearer = values < limits[:, None]
    return (weights * nearer).sum(axis=1) / weights.sum(axis=1)

  return share_nearer
