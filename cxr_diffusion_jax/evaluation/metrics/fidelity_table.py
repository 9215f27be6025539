"""Fidelity of generated images, whole and by group, beside what real images reach.

features -> estimates (value, influences) -> intervals -> [Measurement, ...]

Each figure comes with the same one of held-out real images in place of generated ones,
as many of them: the floor of a distance, the ceiling of a share.
"""

from collections.abc import Mapping, Sequence
import typing

import numpy as np

from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import influences, neighbours
from cxr_diffusion_jax.evaluation.statistics import intervals
from cxr_diffusion_jax.types import Array

# Metric -> (which side is better, fewest images of each set).
# Below these, intervals are as wide as the figures. A Frechet distance needs more: it
# has a covariance to fit.
METRICS = {
  "frechet_distance": ("lower", 50),
  "kernel_distance": ("lower", 20),
  "cmmd": ("lower", 20),
  "precision": ("higher", 20),
  "recall": ("higher", 20),
  "density": ("higher", 20),
  "coverage": ("higher", 20),
}

# Rows of real, of generated and of held-out images, each bool; the last may be None.
Masks = tuple[np.ndarray, np.ndarray, np.ndarray | None]


class Judge(typing.Protocol):
  """What is told of the network whose features these are."""

  name: str
  layer: str
  standin: bool


def measure(
  real: Array,
  generated: Array,
  *,
  held_out: Array | None,
  extractor: Judge,
  groups: Mapping[str, Masks] | None = None,
  seed: int = 0,
  metrics: Sequence[str] = tuple(METRICS),
) -> list[Measurement]:
  """All figures of all images and of each group.

  2,000 against 2,000 images of 768 features with floors and 20 groups of a quarter of
  them take 13 s of one core, 240 of 128 features 0.3 s: kernels and distances grow with
  n^2 d, the Frechet distance with d^3 or, of fewer images than features, n^2 d.

  Args:
    real: [m d] features of the images to be compared with.
    generated: [n d].
    held_out: [h d] of real images that are none of `real`, best of other patients; None
      for no floor. Where there are more than generated ones, as many are drawn.
    extractor: of the features.
    groups: name -> rows, as `image_set.groups` names them.
    seed: of what is drawn.
    metrics: of `METRICS`.

  Returns:
    For "all" and for each group, a metric at a time: the figure of generated images
    and, where there are held-out ones, theirs. With too few images: None and how many
    are wanted.

  Raises:
    errors.InputError: features that are not finite, or of different widths.
    ValueError: an unknown metric.
  """
  sets = _checked(real, generated, held_out, metrics)
  everything = tuple(None if x is None else np.ones(len(x), bool) for x in sets)
  rows: list[Measurement] = []
  for group, masks in {"all": everything, **(groups or {})}.items():
    of_group, judged, floor = (
      None if x is None else x[mask] for x, mask in zip(sets, masks, strict=True)
    )
    told = {"group": group, "extractor": extractor}
    found = estimates(of_group, judged, metrics, seed=seed)
    table = [_told(found, of_group, judged, **told)]
    if floor is not None:
      floor = _drawn(floor, len(judged), seed)
      found = estimates(of_group, floor, metrics, seed=seed)
      table.append(_told(found, of_group, floor, of="real", **told))
    rows += [row for pair in zip(*table, strict=True) for row in pair]
  return rows


def estimates(
  real: np.ndarray, generated: np.ndarray, metrics: Sequence[str], *, seed: int = 0
) -> dict[str, influences.Estimate | None]:
  """Figures of one set against another; None where there are too few images.

  Args:
    real: [m d].
    generated: [n d].
    metrics: of `METRICS`.
    seed: of the kernel distance's subsets.
  """
  num = min(len(real), len(generated))
  makers = {
    ("frechet_distance",): lambda x, y: (influences.frechet_distance(x, y),),
    ("kernel_distance",): lambda x, y: (influences.kernel_distance(x, y, seed=seed),),
    ("cmmd",): lambda x, y: (influences.cmmd(x, y),),
    ("precision", "recall"): influences.precision_recall,
    ("density", "coverage"): influences.density_coverage,
  }
  found: dict[str, influences.Estimate | None] = dict.fromkeys(metrics)
  for names, make in makers.items():
    wanted = [x for x in names if x in found and num >= METRICS[x][1]]
    if wanted:
      made = dict(zip(names, make(real, generated), strict=True))
      found |= {name: made[name] for name in wanted}
  return found


def _told(
  found: Mapping[str, influences.Estimate | None],
  real: np.ndarray,
  judged: np.ndarray,
  *,
  extractor: Judge,
  group: str,
  of: str = "generated",
) -> list[Measurement]:
  """A measurement of each estimate."""
  rows = []
  for metric, estimate in found.items():
    better, fewest = METRICS[metric]
    figures: dict[str, object] = {"value": None}
    if estimate is None:
      kind = "images" if len(judged) <= len(real) else "real images"
      num = min(len(judged), len(real))
      figures["reason"] = f"{num} {kind}, at least {fewest} are wanted"
    else:
      low, high = intervals.interval(estimate)
      # A distance of sets is 0 or more; its unbiased estimate may be below.
      if metric in ("frechet_distance", "cmmd", "density"):
        low = max(low, 0.0)
      figures = {"value": estimate.value, "low": float(low), "high": float(high)}
    rows.append(
      Measurement(
        subject="fidelity",
        metric=metric,
        num=len(judged),
        num_real=len(real),
        judge=f"{extractor.name}, {extractor.layer}",
        standin=extractor.standin,
        group=group,
        of=of,
        better=better,
        **figures,
      )
    )
  return rows


def _checked(
  real: Array, generated: Array, held_out: Array | None, metrics: Sequence[str]
) -> list[np.ndarray | None]:
  unknown = sorted(set(metrics) - set(METRICS))
  if unknown:
    raise ValueError(f"metrics {', '.join(unknown)}, not of {', '.join(METRICS)}")
  sets = [
    None if x is None else neighbours.rows(x) for x in (real, generated, held_out)
  ]
  for features in sets[1:]:
    if features is not None:
      neighbours.check_widths(sets[0], features)
  return sets


def _drawn(features: np.ndarray, num: int, seed: int) -> np.ndarray:
  """As many rows as that, or all where there are fewer."""
  if len(features) <= num:
    return features
  chosen = np.random.default_rng(seed).choice(len(features), num, replace=False)
  return features[np.sort(chosen)]
