"""Whether a finding appears where the image that its condition came from has it.

records -> boxes of the conditions' images; judge -> maps of where it finds a finding
  --box_agreement--> each map with its box, and with boxes of the same finding elsewhere

Each figure stands beside two others: the same of the condition's own real image, which
is the ceiling that the judge's maps allow, and the same maps with the boxes of other
images with the finding, which is what one reaches who knows the finding alone, as many
lie in the same place. The map of an image without the finding shows what looks most
like it.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.evaluation.image_set import ImageSet
from cxr_diffusion_jax.evaluation.judges import box_agreement
from cxr_diffusion_jax.evaluation.judges.probe import Probe
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.statistics import cluster_bootstrap

SHUFFLED = "_boxes_of_others"

# Fewer say nothing about a finding, or about all of them.
MIN_BOXES = 10


def boxes_of(records: records_lib.Records, ids: Sequence[str]) -> np.ndarray:
  """Boxes of images of any split.

  Args:
    records: of the tree.
    ids: n names of images.

  Returns:
    [n 14 4] float32, (x, y, width, height) as fractions of the square image, nan where
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
  return (
    np.stack(boxes) if boxes else np.zeros((0, len(records.vocabulary), 4), np.float32)
  )


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
  """Compares where findings are seen with where they were to be.

  Args:
    generated: n images, image i for the condition of real image i.
    conditions: those n real images; with their labels `findings`, and `patient` where
      known: patients are drawn whole for the intervals.
    boxes: [n 14 4] of the real images, as of `boxes_of`.
    judge: whose maps are used.
    judge_name: for tables.
    num_replicates: of the bootstrap.
    seed: of it.
    progress: told of the images done.

  Returns:
    For all boxes ("all") and those of each finding: `box_agreement.METRICS` of both
    kinds of images, and of both with others' boxes; without a value where fewer than
    `MIN_BOXES` can tell it.
  """
  images, findings = asked_boxes(conditions.labels["findings"], boxes)
  clusters = np.asarray(conditions.labels.get("patient", conditions.ids))[images]
  chosen = boxes[images, findings]
  told = {
    "judge": f"{judge_name}, LayerCAM at its second stage",
    "standin": True,
  }
  made: list[Measurement] = []
  for of, image_set in (("generated", generated), ("real", conditions)):
    own, others = {}, {}
    if len(images) >= MIN_BOXES:
      made_maps = maps(judge, image_set.images, images, findings, progress)
      own = box_agreement.agreement(made_maps, chosen)
      others = box_agreement.agreement_of_others(made_maps, chosen, images, findings)
    for group, rows in _groups(findings, conditions.vocabulary).items():
      for suffix, figures in (("", own), (SHUFFLED, others)):
        for metric in box_agreement.METRICS:
          few = _too_few(figures.get(metric), rows)
          made.append(
            Measurement(
              subject="adherence",
              metric=metric + suffix,
              # More agreement with the boxes of others is neither good nor bad.
              better="" if suffix else "higher",
              group=group,
              of=of,
              **(
                few or _estimate(figures[metric], rows, clusters, num_replicates, seed)
              ),
              **told,
            )
          )
  return made


def asked_boxes(
  findings: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Images [m] and findings [m] of all boxes of findings that an image has."""
  has = (np.asarray(findings) > 0.5) & np.isfinite(boxes).all(axis=-1)
  return np.nonzero(has)


def maps(
  judge: Probe,
  images: Sequence[np.ndarray],
  rows: np.ndarray,
  findings: np.ndarray,
  progress: types.Progress = types.no_progress,
) -> np.ndarray:
  """Where the judge finds findings: [m h w] float32, 0 or more.

  Args:
    judge: a classifier.
    images: n of uint8 [s s 1].
    rows: [m] of the images.
    findings: [m] columns of the judge.
    progress: told of the maps done.
  """
  made = []
  for first in range(0, len(rows), judge.batch_size):
    # The last row fills up: one shape, compiled once.
    places = np.minimum(np.arange(first, first + judge.batch_size), len(rows) - 1)
    batch = np.stack([images[int(row)] for row in rows[places]])
    of_batch = judge.attribution_fn(judge.params, batch, findings[places])
    made.append(np.asarray(of_batch))
    progress("maps of findings", min(first + judge.batch_size, len(rows)), len(rows))
  return np.concatenate(made)[: len(rows)]


def _groups(findings: np.ndarray, vocabulary: Sequence[str]) -> dict[str, np.ndarray]:
  """Names of groups -> [m] bool; those of findings that have any box."""
  groups = {"all": np.ones(len(findings), bool)}
  for column in np.unique(findings):
    groups[f"finding: {vocabulary[column]}"] = findings == column
  return groups


def _too_few(figure: np.ndarray | None, rows: np.ndarray) -> Mapping[str, object]:
  """What is told in place of a value; nothing where there are boxes enough."""
  known = rows if figure is None else rows & np.isfinite(figure)
  count = int(known.sum())
  if count >= MIN_BOXES:
    return {}
  return {
    "value": None,
    "reason": f"{count} boxes that can tell; at least {MIN_BOXES}",
    "num": count,
  }


def _estimate(
  figure: np.ndarray,
  rows: np.ndarray,
  clusters: np.ndarray,
  num_replicates: int,
  seed: int,
) -> dict[str, float | int]:
  """The mean over boxes and its interval, patients drawn whole."""
  known = rows & np.isfinite(figure)
  values = figure[known]

  def mean(weights: np.ndarray) -> np.ndarray:
    return weights @ values / weights.sum(axis=1)

  found = cluster_bootstrap.estimate(
    mean, [clusters[known]], num_replicates=num_replicates, seed=seed
  )
  return {**dataclasses.asdict(found), "num": len(values)}
