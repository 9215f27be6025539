"""Whether a finding appears where the image that the condition came from has it.

records -> boxes of the conditions' images; judge -> maps of where it sees a finding
  --box_agreement--> each map with its box, and with boxes of the same finding elsewhere

Each figure has two references: the same of the condition's own real image, the ceiling
that the judge's maps allow; and the same maps with the boxes of other images with the
finding, which a model reaches that knows the finding alone. The map of an image without
the finding shows what looks most like it.
"""

from collections.abc import Sequence
import functools
import math

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.encoders.probes.probe import Probe
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.judges import box_agreement
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.parallel import batches

OTHER_BOXES = "_boxes_of_others"

# Fewer boxes say nothing about a finding, or about all of them.
MIN_BOXES = 10

_MEANINGS = {
  "pointing_game": "Share of boxes that hold the strongest point of the map.",
  "energy": "Share of the map's sum that lies in the box.",
  "concentration": "Energy divided by the box's share of the image; 1 is an even map.",
  "iou": "Intersection over union of the box and the strong half of the map.",
  "side": "Share of boxes in one half of the image with more of the map in that half.",
}

# More agreement with the boxes of other images is neither better nor worse.
METRICS = tuple(
  Metric(
    name=name + suffix,
    subject="adherence",
    meaning=_MEANINGS[name] + " Of boxes of other images: chance." * bool(suffix),
    direction="" if suffix else "higher",
    bounds=(0.0, math.inf if name == "concentration" else 1.0),
    minimum_n=MIN_BOXES,
    paired=True,
  )
  for suffix in ("", OTHER_BOXES)
  for name in box_agreement.NAMES
)


def boxes_of(records: records_lib.Records, ids: Sequence[str]) -> np.ndarray:
  """Boxes of n images of any split.

  Returns:
    [n k 4] float32, (x, y, width, height) as fractions of the square image, nan where
    a finding has no box.

  Raises:
    KeyError: an image that is in no split.
  """
  places = {}
  for split, count in records.num_rows.items():
    if count:
      places |= {str(name): (split, row) for row, name in enumerate(records.ids(split))}
  open_split = functools.cache(lambda split: records_lib.RecordSource(records, split))
  rows = [places[str(name)] for name in ids]
  boxes = [open_split(split)[row]["boxes"] for split, row in rows]
  return np.stack(boxes) if boxes else np.zeros((0, len(records.vocabulary), 4), "f4")


def measure(
  generated: ImageSet,
  conditions: ImageSet,
  boxes: np.ndarray,
  judge: Probe,
  *,
  judge_name: str = "probe",
  num_replicates: int = 1000,
  seed: int = 0,
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Compares where findings are seen with where they should be.

  Args:
    generated: n images, image i for the condition of real image i.
    conditions: those n real images, with the labels `findings`, and `patient` where
      known: the bootstrap draws whole patients.
    boxes: [n k 4] of the real images, as of `boxes_of`.
    judge: provides the maps.
    judge_name: for tables.
    num_replicates: of the bootstrap.
    seed: of it.
    progress: called with the number of maps done.

  Returns:
    `METRICS` of both kinds of images, for all boxes and those of each finding.
  """
  images, findings = requested_boxes(conditions.labels["findings"], boxes)
  clusters = np.asarray(conditions.labels.get("patient", conditions.ids))[images]
  chosen = boxes[images, findings]
  measurements: list[Measurement] = []
  for of, image_set in (("generated", generated), ("real", conditions)):
    figures: dict[str, np.ndarray] = {}
    if len(images) >= MIN_BOXES:
      maps = make_maps(judge, image_set.images, images, findings, progress)
      figures = box_agreement.agreement(maps, chosen)
      others = box_agreement.agreement_of_others(maps, chosen, images, findings)
      figures |= {name + OTHER_BOXES: values for name, values in others.items()}
    for group, rows in _groups(findings, conditions.vocabulary).items():
      fields = Fields(
        judge=f"{judge_name}, LayerCAM at its second stage",
        standin=True,
        group=group,
        of=of,
      )
      for record in METRICS:
        values = figures.get(record.name, np.full(len(rows), np.nan))
        known = rows & np.isfinite(values) if figures else rows
        estimate = _estimate(values[known], clusters[known], num_replicates, seed)
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
  """Where the judge sees findings: [m h w] float32, 0 or more.

  Args:
    judge: a classifier.
    images: n of uint8 [s s 1].
    rows: [m] of the images.
    findings: [m] columns of the judge.
    progress: called with the number of maps done.
  """

  def maps_of(places: np.ndarray) -> types.Array:
    batch = np.stack([images[int(row)] for row in rows[places]])
    progress("maps of findings", int(places[-1]) + 1, len(rows))
    return judge.attribution_fn(judge.params, batch, findings[places])

  return batches.in_batches(maps_of, len(rows), judge.batch_size)


def _groups(findings: np.ndarray, vocabulary: Sequence[str]) -> dict[str, np.ndarray]:
  """Names of groups -> [m] bool; those of findings that have any box."""
  groups = {"all": np.ones(len(findings), bool)}
  for column in np.unique(findings):
    groups[f"finding: {vocabulary[column]}"] = findings == column
  return groups


def _estimate(
  values: np.ndarray, clusters: np.ndarray, num_replicates: int, seed: int
) -> Fields:
  """The mean over boxes and its interval, or the reason why there is none."""
  num = len(values)
  if num < MIN_BOXES:
    reason = f"{num} boxes with a value, expected at least {MIN_BOXES}"
    return Fields(value=None, reason=reason, num=num)
  mean = statistics.estimate(
    statistics.mean_fn(values), [clusters], num_replicates=num_replicates, seed=seed
  )
  return mean.fields | Fields(num=num)
