"""How different images of one condition, and of different conditions, are.

generated [c m]  -> pairs within a condition -> MS-SSIM, distance of features
                 -> pairs of two conditions  -> the same: low in a collapsed model
real             -> random pairs, pairs of the same findings, pairs of the same patient

A condition of findings alone should leave as much variation as real images with these
findings have; one that holds an image may leave as little as two images of one patient.
More similar than that is collapse. Less similar is no merit: noise differs too.
"""

import dataclasses
import math

from einops import rearrange
import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import diversity, fidelity, neighbours
from cxr_diffusion_jax.parallel import batches

# Pairs of images that are compared at once.
_BATCH = 64

_WITHIN = "_within_condition"

_MEANINGS = {
  "ms_ssim": (
    "Similarity of two images; high among images of one condition: no diversity."
  ),
  "feature_distance": "Distance between the features of two images; small if similar.",
}
METRICS = tuple(
  Metric(
    name=f"{name}{suffix}",
    subject="diversity",
    title=title + " within a condition" * bool(suffix),
    meaning=_MEANINGS[name],
    bounds=(0.0, largest),
    minimum_n=2,
  )
  for suffix in ("", _WITHIN)
  for name, title, largest in (
    ("ms_ssim", "MS-SSIM", 1.0),
    ("feature_distance", "Feature distance", math.inf),
  )
)
_RECORDS = {record.name: record for record in METRICS}


def measure(
  images: np.ndarray,
  features: np.ndarray,
  *,
  real: ImageSet,
  real_features: np.ndarray,
  extractor: Extractor,
  patients: np.ndarray | None = None,
  num_pairs: int = 2000,
) -> list[Measurement]:
  """Compares pairs of generated and of real images.

  Args:
    images: uint8 [c m h w 1]: c conditions, m images of each with different noise.
    real: images; with labels "findings" and "patient" where known.
    patients: names [c] of the conditions' patients; None if each has its own.

  Returns:
    Means over pairs: "ms_ssim" and "feature_distance" of pairs of different conditions
    (real: of different patients), and the two "_within_condition", whose references
    are real pairs of the groups "all", "pairs: same findings", "pairs: same patient".
  """
  if features.shape[:2] != images.shape[:2] or len(real_features) != len(real):
    raise ValueError("features that are not of these images")
  generated, unseen = _sides(images, features, patients, real, real_features)
  generator = np.random.default_rng(0)
  judged = fidelity.judged_by(extractor)
  everything = between(unseen.clusters, num_pairs, generator)
  kinds = [
    (generated, "", "all", between(generated.clusters, num_pairs, generator)),
    (unseen, "", "all", everything),
    (generated, _WITHIN, "all", within(generated.clusters, num_pairs, generator)),
    (unseen, _WITHIN, "all", everything),
  ]
  kinds += [
    (unseen, _WITHIN, f"pairs: same {name}", within(names, num_pairs, generator))
    for name, names in _known_groups(real).items()
  ]
  return [
    measurement
    for side, suffix, group, pairs in kinds
    for measurement in _measure(side, suffix, group, pairs, judged)
  ]


def within(groups: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
  """Pairs [p 2] of rows of one group, all or `num` different ones; groups are [n]."""
  _, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
  order = np.argsort(places, kind="stable")
  starts = np.cumsum(sizes) - sizes
  if int((sizes * (sizes - 1) // 2).sum()) <= num:
    rows = [
      order[start + np.stack(np.triu_indices(size, 1), axis=1)]
      for start, size in zip(starts, sizes, strict=True)
    ]
    return np.concatenate([np.zeros((0, 2), np.int64), *rows])
  # A random image, then another of its group: groups count by their size.
  first = generator.choice(np.flatnonzero(sizes[places] > 1), 4 * num)
  group = places[first]
  place = np.empty(len(places), np.int64)
  place[order] = np.arange(len(places)) - np.repeat(starts, sizes)
  step = generator.integers(1, sizes[group])
  second = order[starts[group] + (place[first] + step) % sizes[group]]
  return _distinct(np.stack([first, second], axis=1), num)


def between(groups: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
  """At most `num` different random pairs [p 2] of rows of two groups."""
  rows = generator.integers(0, len(groups), (4 * num, 2))
  apart = groups[rows[:, 0]] != groups[rows[:, 1]]
  return _distinct(rows[apart], num)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
  """Images of one kind."""

  images: types.Arrays
  features: np.ndarray
  clusters: np.ndarray  # [n] the condition, of real images the patient
  patients: np.ndarray  # [n] names
  fields: Fields


def _sides(
  images: np.ndarray,
  features: np.ndarray,
  patients: np.ndarray | None,
  real: ImageSet,
  real_features: np.ndarray,
) -> tuple[_Side, _Side]:
  """Generated images, of a condition each, and real ones, of a patient each."""
  conditions = np.repeat(np.arange(images.shape[0]), images.shape[1])
  generated = _Side(
    images=rearrange(images, "c m h w k -> (c m) h w k"),
    features=rearrange(features, "c m d -> (c m) d"),
    clusters=conditions,
    patients=conditions if patients is None else np.repeat(patients, images.shape[1]),
    fields=Fields(
      of="generated",
      num=len(conditions),
      num_real=len(real),
      patients=0 if patients is None else len(np.unique(patients)),
      real_patients=real.num_patients,
    ),
  )
  unseen = _Side(
    images=real.images,
    features=real_features,
    clusters=real.patients,
    patients=real.patients,
    fields=Fields(
      of="real", num=len(real), num_real=len(real), patients=real.num_patients
    ),
  )
  return generated, unseen


def _measure(
  side: _Side,
  suffix: str,
  group: str,
  rows: np.ndarray,
  judged: Fields,
) -> list[Measurement]:
  """Mean similarity of pixels and mean distance of features, or why there is none."""
  measurements = []
  for metric, values_fn in (
    ("ms_ssim", _similarities),
    ("feature_distance", _distances),
  ):
    fields = side.fields | Fields(group=group)
    if metric == "feature_distance":
      fields |= judged
    if not len(rows):
      reason = "fewer than two such images" + " of a condition" * bool(suffix)
      figure = Fields(value=None, reason=reason)
    elif metric == "ms_ssim" and min(side.images[0].shape[:2]) < diversity.WINDOW:
      reason = f"images have sides below {diversity.WINDOW} pixels"
      figure = Fields(value=None, reason=reason)
    else:
      figure = _mean(side, rows, values_fn(side, rows))
    measurements.append(_RECORDS[metric + suffix].measurement(figure, fields))
  return measurements


def _mean(side: _Side, rows: np.ndarray, values: np.ndarray) -> statistics.Estimate:
  """Mean over [p]: pairs share images, so halves hold images, not pairs."""
  first, second = rows.T
  apart = side.patients[first] != side.patients[second]

  def mean(weights: np.ndarray) -> np.ndarray:
    # A pair of two patients counts as often as both do.
    of_pair = weights[:, first] * np.where(apart, weights[:, second], 1)
    total = of_pair.sum(axis=1)
    # A half of very few images may hold none of the pairs.
    return np.where(total > 0, of_pair @ values / np.maximum(total, 1), np.nan)

  return statistics.estimate(mean, side.patients)


def _similarities(side: _Side, rows: np.ndarray) -> np.ndarray:
  """MS-SSIM [p] of pairs."""

  def of_pairs(places: np.ndarray) -> np.ndarray:
    x, y = (
      np.stack([side.images[row] for row in column]).astype(np.float32) / 255
      for column in rows[places].T
    )
    return np.asarray(diversity.ms_ssim(x, y))

  return batches.in_batches(of_pairs, len(rows), _BATCH).astype(np.float64)


def _distances(side: _Side, rows: np.ndarray) -> np.ndarray:
  """Euclidean distances [p] of the features of pairs."""
  x = np.asarray(side.features)
  return np.sqrt(neighbours.squared_distances(x, x, rows[:, 0], rows[:, 1]))


def _known_groups(real: ImageSet) -> dict[str, np.ndarray]:
  """What real images may have in common: word -> names [n].

  Unknown findings are in common with unknown ones.
  """
  keys = [key for key in ("findings", "patient") if key in real.labels]
  known = {key: np.asarray(real.labels[key]) for key in keys}
  if "findings" in known:
    known["findings"] = np.nan_to_num(known["findings"].astype(float), nan=-1.0)
  return {
    key: np.unique(values, axis=0, return_inverse=True)[1]
    for key, values in known.items()
  }


def _distinct(rows: np.ndarray, num: int) -> np.ndarray:
  """The first `num` pairs [p 2] that are not the same as an earlier one, either way."""
  _, first = np.unique(np.sort(rows, axis=1), axis=0, return_index=True)
  return rows[np.sort(first)[:num]]
