"""How well a linear classifier reads the findings from stored embeddings.

  column(train) --`embedding_fit.train`--> a classifier of `TARGETS`
  column(test) against NIH's labels        -> AUROC, average precision
  column(rows with expert labels) against Google's experts -> the same

It checks the embeddings that paths are conditioned on; no generated image is used.
Experts' images are of validation, test and expert splits, which the classifier has not
seen. NIH has no label of fractures to learn from.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from types import MappingProxyType

import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.sources.nih import google_labels as google_labels_lib
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.evaluation.judges import adherence, embedding_fit
from cxr_diffusion_jax.evaluation.judges.embedding_fit import ClassifierSettings
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

TARGETS = (*metadata.FINDINGS, *UNIONS)

NAMES = ("auroc", "average_precision")
SOURCES = ("NIH labels", "four expert labels", "all expert labels")

METRICS = tuple(
  Metric(
    name=f"{name} ({source})",
    subject="embeddings",
    title=f"{title} ({source})",
    meaning="Of a linear classifier of stored embeddings of real images.",
    direction="higher",
    bounds=(0.0, 1.0),
    minimum_n=5,
  )
  for source in SOURCES
  for name, title in zip(NAMES, ("AUROC", "Average precision"), strict=True)
)

_Judged = tuple[np.ndarray, np.ndarray, tuple[str, ...], np.ndarray]

# Of `splits.SPLITS`, those that nothing is trained on.
HELD_OUT = ("validation", "test", "expert")


def measure(
  records: records_lib.Records,
  column: columns_lib.Column,
  *,
  expert: google_labels_lib.GoogleLabels | None = None,
  settings: ClassifierSettings | None = None,
  cache: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Trains on the training split and judges the held-out splits."""
  settings = settings or ClassifierSettings()
  rows = np.flatnonzero(column.present("train"))
  targets = targets_of(records.fields("train")["findings"][rows])
  classifier = embedding_fit.train(
    column, rows, targets, settings, cache=cache, progress=progress
  )
  about = column.description
  of_images = f", {classifier.num_images:,} images"
  judge = (
    f"logistic regression on {about.name}, {settings.pooling}"
    f"{of_images if classifier.num_images < len(rows) else ''}"
  )
  measurements = []
  for source, (scores, labels, names, patients) in _judged_on(
    records, column, classifier, expert, cache
  ).items():
    measurements += figures(
      scores,
      labels,
      names,
      patients,
      untrained=_untrained(classifier, names),
      judge=judge,
      source=source,
      standin=about.standin,
    )
  return measurements


def targets_of(findings: np.ndarray) -> np.ndarray:
  """Joins findings [n 14] to `TARGETS` [n 17], uint8."""
  present = np.asarray(findings) > 0.5
  unions = [
    present[:, [metadata.FINDINGS.index(name) for name in names]].any(axis=1)
    for names in UNIONS.values()
  ]
  return np.concatenate([present, np.stack(unions, axis=1)], axis=1).astype(np.uint8)


def figures(
  scores: np.ndarray,
  labels: np.ndarray,
  names: Sequence[str],
  patients: np.ndarray,
  *,
  untrained: Mapping[str, str],
  judge: str,
  source: str,
  standin: bool,
) -> list[Measurement]:
  """Compares scores with one source of labels.

  Args:
    labels: [n k] 0 or 1, nan unknown; images count where every finding that is labelled
      at all is known.
    patients: [n].
  """
  given = np.atleast_1d(np.isfinite(labels).any(axis=0))
  reasons = {
    name: untrained.get(name, f"no {source} of it")
    for name, known in zip(names, given, strict=True)
    if name in untrained or not known
  }
  used = [k for k, name in enumerate(names) if name not in reasons]
  rows = np.isfinite(labels[:, used]).all(axis=1)
  requested = labels[rows][:, used] > 0.5
  positives = requested.sum(axis=0)
  fields = Fields(
    judge=judge,
    standin=standin,
    of="real",
    patients=len(np.unique(patients[rows])),
  )
  table: list[Measurement] = []
  least = adherence.MIN_POSITIVES
  if ((positives >= least) & (positives < len(requested))).any():
    judged = adherence.measure(
      scores[rows][:, used],
      requested,
      np.zeros(len(used)),
      patients=patients[rows],
    )
    table = adherence.to_measurements(judged, [names[k] for k in used], **fields)
  else:
    few = (
      f"{len(requested)} images, at most {positives.max(initial=0)} with one finding;"
      f" expected {least} with it and one without"
    )
    reasons = {"": few} | {names[k]: few for k in used} | reasons
  records = {record.name: record for record in METRICS}
  known = [
    dataclasses.replace(one, subject="embeddings", metric=f"{one.metric} ({source})")
    for one in table
    if one.metric in NAMES
  ]
  undefined = [
    records[f"{metric} ({source})"].measurement(
      fields,
      group=f"finding: {name}" if name else "all",
      value=None,
      reason=reason,
      num=len(requested),
    )
    for metric in NAMES
    for name, reason in reasons.items()
  ]
  return [*known, *undefined]


def _untrained(
  classifier: embedding_fit.Classifier, names: Sequence[str]
) -> dict[str, str]:
  """Names without a score -> the reason."""
  alone = f"one class alone in the {classifier.num_images:,} training images"
  reasons = {}
  for name in names:
    if name not in TARGETS:
      reasons[name] = "NIH has no label of it to train on"
    elif not classifier.known[TARGETS.index(name)]:
      reasons[name] = alone
  return reasons


def _judged_on(
  records: records_lib.Records,
  column: columns_lib.Column,
  classifier: embedding_fit.Classifier,
  expert: google_labels_lib.GoogleLabels | None,
  cache: pathlib.Path | None,
) -> dict[str, _Judged]:
  """Source of labels -> scores [n k], labels [n k], k findings, patients [n]."""
  ids, scores, findings, patients = [], [], [], []
  for split in HELD_OUT:
    rows = np.flatnonzero(column.present(split))
    path = cache and cache / f"embedding_scores-{classifier.fingerprint}-{split}.npy"
    scores.append(
      artifacts.load_or_make(
        path,
        lambda split=split, rows=rows: classifier.scores(column.source(split), rows),
      )
    )
    ids.append(records.ids(split)[rows])
    findings.append(records.fields(split)["findings"][rows])
    patients.append(records.fields(split)["patient"][rows])
  test = HELD_OUT.index("test")
  nih = metadata.FINDINGS
  judged: dict[str, _Judged] = {
    SOURCES[0]: (
      *(_scores_of(scores[test], nih), 1.0 * findings[test]),
      *(nih, patients[test]),
    )
  }
  if expert is None:
    return judged
  stems, every = np.concatenate(ids), np.concatenate(scores)
  for source, of_id, names in (
    (SOURCES[1], expert.four_findings, google_labels_lib.FOUR_FINDINGS),
    (SOURCES[2], expert.all_findings, (*nih, "Abnormal")),
  ):
    rows = [row for row, stem in enumerate(stems.tolist()) if stem in of_id]
    if of_id:
      given = [of_id[stems[row]] for row in rows]
      given = np.array(given, np.float64).reshape(len(rows), len(names))
      of_rows = np.concatenate(patients)[rows]
      judged[source] = _scores_of(every[rows], names), given, names, of_rows
  return judged


def _scores_of(scores: np.ndarray, names: Sequence[str]) -> np.ndarray:
  """Columns of `TARGETS` as [n k] of these names; 0 for what is no target."""
  columns = np.zeros((len(scores), len(names)), np.float64)
  for k, name in enumerate(names):
    if name in TARGETS:
      columns[:, k] = scores[:, TARGETS.index(name)]
  return columns
