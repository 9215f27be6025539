"""Whether a finding appears where it is in the image that the condition came from.

records -> boxes of the conditions' images; judge -> maps of where it sees a finding
  --> each map with its box, and with boxes of the same finding elsewhere

map [h w], box (x, y, width, height) in fractions of the image
  pointing game  the map's highest place lies in the box
  energy         share of the map's sum that lies in the box
  concentration  energy over the box's share of the image; 1 is an even map
  iou            of the box and the places above half of the maximum
  side           of boxes in one half of the image: more of the map lies in that half

Each figure has two references: the same of the condition's own real image, the ceiling
that the judge's maps allow; and the same maps with the boxes of other images with the
finding, which a model reaches that knows the finding alone. The map of an image without
the finding shows what looks most like it.

Pointing game: Zhang et al. 2018, 1608.00507, section 4.1. Energy: Wang et al. 2020,
1910.01279, section 4.3.
"""

from collections.abc import Sequence
import math

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.encoders.probes.probe import Probe
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.parallel import batches

OTHER_BOXES = "_boxes_of_others"

# Minimum number of boxes for a figure.
MIN_BOXES = 10

# Places above this share of a map's maximum are compared with the box.
THRESHOLD = 0.5

# Boxes of other images that a map is compared with.
MAX_OTHERS = 256

_MEANINGS = {
  "pointing_game": "Share of boxes that hold the strongest point of the map.",
  "energy": "Share of the map's sum that lies in the box.",
  "concentration": "Energy divided by the box's share of the image; 1 is an even map.",
  "iou": "Intersection over union of the box and the strong half of the map.",
  "side": "Share of boxes in one half of the image, the side that a prompt names, with"
  " more of the map in that half; 0.5 is chance.",
}

_TITLES = {"side": "Side obeyed"}

NAMES = tuple(_MEANINGS)

# More agreement with the boxes of other images is neither better nor worse.
METRICS = tuple(
  Metric(
    name=name + suffix,
    subject="adherence",
    title=_TITLES.get(name, "")
    + ", boxes of others" * bool(suffix and name in _TITLES),
    meaning=_MEANINGS[name] + " Of boxes of other images: chance." * bool(suffix),
    direction="" if suffix else "higher",
    bounds=(0.0, math.inf if name == "concentration" else 1.0),
    minimum_n=MIN_BOXES,
  )
  for suffix in ("", OTHER_BOXES)
  for name in NAMES
)


def boxes_of(records: records_lib.Records, ids: Sequence[str]) -> np.ndarray:
  """Boxes of n images of any split.

  Returns:
    [n k 4] float32, (x, y, width, height) as fractions of the square image, nan where
    a finding has no box.
  """
  splits = [split for split, count in records.num_rows.items() if count]
  sources = {split: records_lib.RecordSource(records, split) for split in splits}
  places = {
    str(name): (sources[split], row)
    for split in splits
    for row, name in enumerate(records.ids(split))
  }
  boxes = [source[row]["boxes"] for source, row in (places[str(one)] for one in ids)]
  return np.stack(boxes) if boxes else np.zeros((0, len(records.vocabulary), 4), "f4")


def measure(
  generated: ImageSet,
  conditions: ImageSet,
  boxes: np.ndarray,
  judge: Probe,
  *,
  judge_name: str = "probe",
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Compares where findings are seen with where they should be.

  Args:
    conditions: those n real images, with the labels `findings`, and `patient` where
      known.
    boxes: [n k 4] of the real images, as of `boxes_of`.
  """
  images, findings = requested_boxes(conditions.labels["findings"], boxes)
  patients = conditions.patients[images]
  chosen = boxes[images, findings]
  judge_name = f"{judge_name}, LayerCAM at its second stage"
  groups = {"all": np.ones(len(findings), bool)}
  for column in np.unique(findings):
    groups[f"finding: {conditions.vocabulary[column]}"] = findings == column
  measurements: list[Measurement] = []
  for of, image_set in (("generated", generated), ("real", conditions)):
    figures: dict[str, np.ndarray] = {}
    if len(images) >= MIN_BOXES:
      maps = make_maps(judge, image_set.images, images, findings, progress)
      figures = agreement(maps, chosen)
      others = agreement_of_others(maps, chosen, images, findings)
      figures |= {name + OTHER_BOXES: values for name, values in others.items()}
    for group, rows in groups.items():
      fields = Fields(judge=judge_name, standin=True, group=group, of=of)
      for record in METRICS:
        values = figures.get(record.name, np.zeros(len(rows)))
        known = rows & np.isfinite(values)
        fields["num"] = int(known.sum())
        fields["patients"] = conditions.num_patients and len(np.unique(patients[known]))
        estimate = _estimate(values[known], patients[known])
        measurements.append(record.measurement(fields, estimate))
  return measurements


def requested_boxes(
  findings: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Images [m] and findings [m] of all boxes of findings that an image has."""
  has = (np.asarray(findings) > 0.5) & np.isfinite(boxes).all(axis=-1)
  images, columns = np.nonzero(has)
  return images, columns


def make_maps(
  judge: Probe,
  images: types.Arrays,
  rows: np.ndarray,
  findings: np.ndarray,
  progress: types.Progress = types.no_progress,
) -> np.ndarray:
  """Where the judge sees findings: [m h w] float32, 0 or more."""

  def maps_of(places: np.ndarray) -> types.Array:
    batch = np.stack([images[int(row)] for row in rows[places]])
    progress("maps of findings", int(places[-1]) + 1, len(rows))
    return judge.attribution_fn(judge.params, batch, findings[places])

  return batches.in_batches(maps_of, len(rows), judge.batch_size)


def agreement(maps: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
  """Figures of each map and its own box: `NAMES` -> [m].

  The side of boxes that cross the middle of the image is nan.
  """

  def own(rows: np.ndarray) -> dict[str, np.ndarray]:
    pairs = compare(maps[rows], boxes[rows])
    return {name: np.diagonal(of_pairs) for name, of_pairs in pairs.items()}

  return batches.in_batches(own, len(maps), min(MAX_OTHERS, len(maps)))


def agreement_of_others(
  maps: np.ndarray, boxes: np.ndarray, images: np.ndarray, findings: np.ndarray
) -> dict[str, np.ndarray]:
  """Means over boxes of the same finding in other images, nan where there is none."""
  means = {name: np.full(len(maps), np.nan) for name in NAMES}
  for finding in np.unique(findings):
    rows = np.flatnonzero(findings == finding)
    spread = np.linspace(0, len(rows) - 1, min(len(rows), MAX_OTHERS)).astype(int)
    others = rows[spread]
    apart = images[rows][:, None] != images[others][None]
    for name, of_pairs in compare(maps[rows], boxes[others]).items():
      counted = apart & np.isfinite(of_pairs)
      total = np.where(counted, of_pairs, 0).sum(axis=1)
      count = counted.sum(axis=1)
      means[name][rows] = np.where(count, total / np.maximum(count, 1), np.nan)
  return means


def compare(maps: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
  """Figures of every map with every box: `NAMES` -> [m b].

  A box covers parts of places at its border. The highest place counts as in the box
  where its middle is at most half a place outside: the map is no finer.

  Args:
    maps: [m h w], 0 or more.
    boxes: [b 4], (x, y, width, height) as fractions.
  """
  m, h, w = maps.shape
  flat = maps.reshape(m, -1).astype(np.float64)
  total = np.maximum(flat.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
  down = _covered(boxes[:, 1], boxes[:, 3], h)
  across = _covered(boxes[:, 0], boxes[:, 2], w)
  cover = (down[:, :, None] * across[:, None, :]).reshape(len(boxes), -1)
  energy = flat @ cover.T / total
  area = boxes[:, 2].astype(np.float64) * boxes[:, 3]
  above = (flat >= THRESHOLD * flat.max(axis=1, keepdims=True)) & (flat > 0)
  shared = above.astype(np.float64) @ cover.T
  union = above.sum(axis=1)[:, None] + cover.sum(axis=1) - shared
  y, x = np.divmod(flat.argmax(axis=1), w)
  points = _within(x, w, boxes[:, 0], boxes[:, 2])
  points &= _within(y, h, boxes[:, 1], boxes[:, 3])
  return {
    "pointing_game": (points & (flat.max(axis=1) > 0)[:, None]).astype(np.float64),
    "energy": energy,
    "concentration": energy / area,
    "iou": shared / union,
    "side": _side(flat.reshape(m, h, w), boxes),
  }


def _estimate(values: np.ndarray, patients: np.ndarray) -> Fields | statistics.Estimate:
  """The mean over boxes and its interval, or the reason why there is none."""
  num = len(values)
  if num < MIN_BOXES:
    reason = f"{num} boxes with a value, expected at least {MIN_BOXES}"
    return Fields(value=None, reason=reason)
  return statistics.linear(values.mean(), (values, patients))


def _covered(start: np.ndarray, length: np.ndarray, count: int) -> np.ndarray:
  """Share of each of `count` places of [0, 1] that is in start + [0, length]: [b c]."""
  edges = np.arange(count) / count
  low = np.maximum(edges, start[:, None])
  high = np.minimum(edges + 1 / count, (start + length)[:, None])
  return np.clip((high - low) * count, 0, 1)


def _within(
  place: np.ndarray, count: int, start: np.ndarray, length: np.ndarray
) -> np.ndarray:
  """[m b] bool, whether places [m] of `count` lie between, half a place allowed."""
  middle = ((place + 0.5) / count)[:, None]
  slack = 0.5 / count
  return (middle >= start - slack) & (middle <= start + length + slack)


def _side(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """[m b], 1 where a map has more on the box's side, one half where equal, else 0."""
  half = maps.shape[2] // 2
  lean = maps[:, :, -half:].sum(axis=(1, 2)) - maps[:, :, :half].sum(axis=(1, 2))
  right, left = boxes[:, 0] >= 0.5, boxes[:, 0] + boxes[:, 2] <= 0.5
  sign = np.where(right, 1.0, np.where(left, -1.0, np.nan))
  return 0.5 + 0.5 * np.sign(lean)[:, None] * sign
