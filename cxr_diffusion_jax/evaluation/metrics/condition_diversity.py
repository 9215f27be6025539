"""How different images of one condition are, and images of all conditions, beside real.

generated [c m]  -> pairs within a condition -> MS-SSIM, distance of features
                 -> pairs of two conditions  -> the same: low in a collapsed model
real             -> random pairs, pairs of the same findings, pairs of the same patient

A condition that says the findings alone should leave as much open as real images of
these findings differ; one that holds an image may leave as little as two images of one
patient. More similar than that is collapse; less similar is no merit: noise differs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from einops import rearrange
import numpy as np

from cxr_diffusion_jax.evaluation.image_set import ImageSet
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import diversity, neighbours
from cxr_diffusion_jax.evaluation.statistics import cluster_bootstrap

# Pairs of images that are compared at once.
_BATCH = 64


def measure(
  images: np.ndarray,
  features: np.ndarray,
  *,
  real: ImageSet,
  real_features: np.ndarray,
  extractor,
  num_pairs: int = 2000,
  num_replicates: int = 1000,
  seed: int = 0,
) -> list[Measurement]:
  """Compares pairs of generated and of real images.

  Args:
    images: uint8 [c m h w 1]: c conditions, m images of each from noise of its own.
    features: [c m d] of them.
    real: images; with labels "findings" and "patient" where known.
    real_features: [r d] of them, by the same extractor.
    extractor: has `name`, `layer` and `standin`.
    num_pairs: compared at most, of each kind.
    num_replicates: of the bootstrap.
    seed: of it and of the choice of pairs.

  Returns:
    Means over pairs: "ms_ssim" and "feature_distance" of pairs of different conditions
    (real: of different patients), and the two "_within_condition". Beside those stand
    real pairs of the groups "all", "pairs: same findings", "pairs: same patient".

  Raises:
    ValueError: features that are not of these images.
  """
  if features.shape[:2] != images.shape[:2] or len(real_features) != len(real):
    raise ValueError("features that are not of these images")
  generated, unseen = _sides(images, features, real, real_features)
  generator = np.random.default_rng(seed)
  everything = between(unseen.clusters, num_pairs, generator)
  inside = "_within_condition"
  kinds = [
    (generated, "", "all", between(generated.clusters, num_pairs, generator)),
    (unseen, "", "all", everything),
    (generated, inside, "all", within(generated.clusters, num_pairs, generator)),
    (unseen, inside, "all", everything),
  ]
  kinds += [
    (unseen, inside, f"pairs: same {name}", within(names, num_pairs, generator))
    for name, names in _known_groups(real).items()
  ]
  return [
    measurement
    for side, suffix, group, pairs in kinds
    for measurement in _measure(
      side, suffix, group, pairs, extractor, num_replicates, seed
    )
  ]


def within(groups: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
  """Pairs of two images of one group: all, or `num` of more, drawn once each.

  Args:
    groups: [n] names.
    num: at most.
    generator: of random numbers.

  Returns:
    Rows [p 2].
  """
  _, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
  order = np.argsort(places, kind="stable")
  starts = np.cumsum(sizes) - sizes
  if int((sizes * (sizes - 1) // 2).sum()) <= num:
    rows = [
      order[start + np.stack(np.triu_indices(size, 1), axis=1)]
      for start, size in zip(starts, sizes, strict=True)
    ]
    return np.concatenate([np.zeros((0, 2), np.int64), *rows])
  # An image at random, then another of its group: large groups count as they are.
  first = generator.choice(np.flatnonzero(sizes[places] > 1), 4 * num)
  group = places[first]
  place = np.empty(len(places), np.int64)
  place[order] = np.arange(len(places)) - np.repeat(starts, sizes)
  step = generator.integers(1, sizes[group])
  second = order[starts[group] + (place[first] + step) % sizes[group]]
  return _distinct(np.stack([first, second], axis=1), num)


def between(groups: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
  """At most `num` random pairs of images of two groups, drawn once each.

  Args:
    groups: [n] names.
    num: at most.
    generator: of random numbers.

  Returns:
    Rows [p 2].
  """
  rows = generator.integers(0, len(groups), (4 * num, 2))
  apart = groups[rows[:, 0]] != groups[rows[:, 1]]
  return _distinct(rows[apart], num)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
  """Images of one kind.

  Attributes:
    images: [i] -> uint8 [h w 1].
    features: [n d].
    clusters: [n] names, images of one are resampled together.
    fixed: fields of all measurements of them.
  """

  images: Sequence[np.ndarray]
  features: np.ndarray
  clusters: np.ndarray
  fixed: Mapping[str, Any]


def _sides(
  images: np.ndarray, features: np.ndarray, real: ImageSet, real_features: np.ndarray
) -> tuple[_Side, _Side]:
  """Generated images, of a condition each, and real ones, of a patient each."""
  conditions = np.repeat(np.arange(images.shape[0]), images.shape[1])
  generated = _Side(
    images=rearrange(images, "c m h w k -> (c m) h w k"),
    features=rearrange(features, "c m d -> (c m) d"),
    clusters=conditions,
    fixed={"of": "generated", "num": len(conditions), "num_real": len(real)},
  )
  unseen = _Side(
    images=real.images,
    features=real_features,
    clusters=np.asarray(real.labels.get("patient", np.arange(len(real)))),
    fixed={"of": "real", "num": len(real), "num_real": len(real)},
  )
  return generated, unseen


def _measure(
  side: _Side,
  suffix: str,
  group: str,
  rows: np.ndarray,
  extractor,
  num_replicates: int,
  seed: int,
) -> list[Measurement]:
  """Mean similarity of pixels and mean distance of features, or why there is none."""
  judge = {
    "judge": f"{extractor.name}, {extractor.layer}",
    "standin": extractor.standin,
  }
  made = []
  for metric, values_fn, fields in (
    ("ms_ssim", _similarities, {}),
    ("feature_distance", _distances, judge),
  ):
    fields = {"subject": "diversity", "group": group, **side.fixed, **fields}
    reason, values = "", {"value": None}
    if not len(rows):
      reason = "no two such images: 2 are needed" + " of a condition" * bool(suffix)
    elif metric == "ms_ssim" and min(side.images[0].shape[:2]) < diversity.WINDOW:
      reason = f"sides of {diversity.WINDOW} pixels are needed"
    else:
      values = _mean(side, rows, values_fn(side, rows), num_replicates, seed)
    made.append(Measurement(metric=metric + suffix, reason=reason, **values, **fields))
  return made


def _mean(
  side: _Side, rows: np.ndarray, values: np.ndarray, num_replicates: int, seed: int
) -> dict[str, float]:
  """Mean [p] and its interval: pairs share images, so images are resampled."""
  first, second = rows.T
  apart = side.clusters[first] != side.clusters[second]

  def mean(weights: np.ndarray) -> np.ndarray:
    # A pair of two clusters is drawn as often as both are.
    of_pair = weights[:, first] * np.where(apart, weights[:, second], 1)
    total = of_pair.sum(axis=1)
    # Of very few images none of the pairs may be drawn.
    drawn = of_pair @ values / np.maximum(total, 1)
    return np.where(total > 0, drawn, values.mean())

  estimate = cluster_bootstrap.estimate(
    mean, [side.clusters], num_replicates=num_replicates, seed=seed
  )
  return dataclasses.asdict(estimate)


def _similarities(side: _Side, rows: np.ndarray) -> np.ndarray:
  """MS-SSIM [p] of pairs."""
  made = []
  for first in range(0, len(rows), _BATCH):
    # The last pair fills up: one shape, compiled once.
    chosen = rows[np.minimum(np.arange(first, first + _BATCH), len(rows) - 1)]
    x, y = (
      np.stack([side.images[row] for row in column]).astype(np.float32) / 255
      for column in chosen.T
    )
    made.append(np.asarray(diversity.ms_ssim(x, y)))
  return np.concatenate(made)[: len(rows)].astype(np.float64)


def _distances(side: _Side, rows: np.ndarray) -> np.ndarray:
  """Euclidean distances [p] of the features of pairs."""
  x = np.asarray(side.features)
  return np.sqrt(neighbours.squared_distances(x, x, rows[:, 0], rows[:, 1]))


def _known_groups(real: ImageSet) -> dict[str, np.ndarray]:
  """What real images may have in common: word -> names [n]."""
  groups = {}
  if "findings" in real.labels:
    _, groups["findings"] = np.unique(
      real.labels["findings"], axis=0, return_inverse=True
    )
  if "patient" in real.labels:
    groups["patient"] = np.asarray(real.labels["patient"])
  return groups


def _distinct(rows: np.ndarray, num: int) -> np.ndarray:
  """The first `num` pairs [p 2] that are not the same as an earlier one, either way."""
  _, first = np.unique(np.sort(rows, axis=1), axis=0, return_index=True)
  return rows[np.sort(first)[:num]]
