"""How well judges of findings agree with Google's experts, on images not trained on.

held-out real images with expert labels --judge--> scores [n k]
  --columns of four, or of all findings--> AUROC, average precision: ceilings

Where experts name a union, such as "Nodule or mass", its score is the highest of those
that the judge scores.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from types import MappingProxyType

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.sources.nih import google_labels as google_labels_lib
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric

# Expert finding -> NIH findings, any of which counts as it in training: this project's
# reading of Majkowska et al., Radiology 2019. Experts labelled images and NIH reports,
# so the two definitions differ.
_OPACITIES = ("Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia")
UNIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({
  "Airspace opacity": _OPACITIES,
  "Nodule or mass": ("Mass", "Nodule"),
  "Abnormal": metadata.FINDINGS,
})  # fmt: skip

# Set of expert labels -> names of its findings.
SETS: Mapping[str, tuple[str, ...]] = MappingProxyType({
  "four": google_labels_lib.FOUR_FINDINGS,
  "all": (*metadata.FINDINGS, "Abnormal"),
})  # fmt: skip

NAMES = ("auroc", "average_precision")

METRICS = tuple(
  Metric(
    name=f"{name}_by_experts_{which}",
    subject="adherence",
    title=f"{'AUROC' if name == 'auroc' else 'Average precision'} of the judge"
    f" ({which} expert labels)",
    meaning="Of a judge on real images that experts labelled: how far it can be"
    " trusted.",
    direction="higher",
    bounds=(0.0, 1.0),
    minimum_n=5,
  )
  for which in SETS
  for name in NAMES
)
_RECORDS = {record.name: record for record in METRICS}

# Of `splits.SPLITS`, those that nothing is trained on.
HELD_OUT = ("validation", "test", "expert")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
  """A judge of findings.

  Attributes:
    findings: names of its k scores; "" for one that means nothing.
    scores_fn: n images uint8 [h w 1] -> [n k].
  """

  title: str
  findings: Sequence[str]
  scores_fn: Callable[[types.Arrays], np.ndarray]
  standin: bool = False


def measure(
  records: records_lib.Records,
  expert: google_labels_lib.GoogleLabels,
  scorers: Sequence[Scorer],
) -> list[Measurement]:
  """Figures of each judge against the four and against all expert labels."""
  measurements = []
  for which, of_id in (("four", expert.four_findings), ("all", expert.all_findings)):
    sets = []
    for split in HELD_OUT:
      images = image_set.of_records(records, split)
      rows = np.flatnonzero([str(name) in of_id for name in images.ids])
      sets.append(images.take(rows))
    ids = [str(name) for images in sets for name in images.ids]
    if not ids:
      continue
    names = SETS[which]
    labels = np.array([of_id[name] for name in ids], np.float64)
    patients = np.concatenate([images.patients for images in sets])
    shown = image_set.chain([images.images for images in sets])
    for scorer in scorers:
      columns = columns_of(scorer.findings, names)
      scores = np.asarray(scorer.scores_fn(shown), np.float64)
      measurements += figures(
        np.stack(
          [scores[:, c].max(axis=1) if c else 0 * labels[:, 0] for c in columns], axis=1
        ),
        labels,
        names,
        patients,
        fields=Fields(judge=scorer.title, standin=scorer.standin, of="real"),
        untrained={
          name: "the judge does not score it"
          for name, column in zip(names, columns, strict=True)
          if not column
        },
        records={name: _RECORDS[f"{name}_by_experts_{which}"] for name in NAMES},
      )
  return measurements


def columns_of(findings: Sequence[str], names: Sequence[str]) -> list[list[int]]:
  """For each name of the experts, the columns of a judge that it is the highest of."""
  place = {labels_lib.plain(name): k for k, name in enumerate(findings) if name}
  columns = []
  for name in names:
    wanted = [name] if labels_lib.plain(name) in place else UNIONS.get(name, (name,))
    plain = [labels_lib.plain(one) for one in wanted]
    columns.append([place[one] for one in plain if one in place])
  return columns


def figures(
  scores: np.ndarray,
  labels: np.ndarray,
  names: Sequence[str],
  patients: np.ndarray,
  *,
  fields: Fields,
  untrained: Mapping[str, str],
  records: Mapping[str, Metric],
) -> list[Measurement]:
  """Compares scores with one source of labels.

  Args:
    labels: [n k] 0 or 1, nan unknown; images count for a finding where it is known.
    patients: [n].
    untrained: findings without a score -> the reason.
    records: figure of `adherence` -> the metric that it is reported as.
  """
  given = np.atleast_1d(np.isfinite(labels).any(axis=0))
  reasons = {
    f"finding: {name}": untrained.get(name, "nobody labelled it")
    for name, known in zip(names, given, strict=True)
    if name in untrained or not known
  }
  used = {k: x for k, x in enumerate(names) if f"finding: {x}" not in reasons}
  rows = np.isfinite(labels[:, list(used)]).any(axis=1)
  scores, given = scores[rows][:, list(used)], labels[rows][:, list(used)]
  requested = np.where(np.isnan(given), np.nan, given > 0.5)
  patients, num, zeros = patients[rows], int(rows.sum()), np.zeros(len(used))
  fields = fields | Fields(patients=len(np.unique(patients)))
  measurements: list[Measurement] = []
  try:
    judged = adherence.measure(scores, requested, zeros, patients=patients)
  except errors.InputError as error:
    groups = ["all", *(f"finding: {name}" for name in used.values())]
    reasons = dict.fromkeys(groups, str(error)) | reasons
  else:
    measurements = [
      dataclasses.replace(
        one, subject=records[one.metric].subject, metric=records[one.metric].name
      )
      for one in adherence.to_measurements(judged, list(used.values()), **fields)
      if one.metric in records
    ]
  return measurements + [
    record.measurement(fields, group=group, value=None, reason=reason, num=num)
    for record in records.values()
    for group, reason in reasons.items()
  ]
