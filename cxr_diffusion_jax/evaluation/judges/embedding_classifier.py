"""How well a linear classifier reads the findings from stored embeddings.

  column(train) --`embedding_fit.train`--> a classifier of `TARGETS`
  column(test) against NIH's labels        -> AUROC, average precision
  column(rows with expert labels) against Google's experts -> the same

It checks the embeddings that paths are conditioned on; no generated image is used.
Experts' images are of validation, test and expert splits, which the classifier has not
seen. NIH has no label of fractures to learn from.
"""

from collections.abc import Sequence
import functools
import pathlib

import numpy as np

from cxr_diffusion_jax import checked_files, types
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.sources.nih import google_labels as google_labels_lib
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.encoders.probes import embedding_fit
from cxr_diffusion_jax.evaluation.judges import expert_labels
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric

TARGETS = (*metadata.FINDINGS, *expert_labels.UNIONS)

NAMES = ("auroc", "average_precision")
SOURCES = ("NIH labels", "four expert labels", "all expert labels")

METRICS = tuple(
  Metric(
    name=f"{name} ({source})",
    subject="embeddings",
    meaning="Of a linear classifier of stored embeddings of real images.",
    direction="higher",
    bounds=(0.0, 1.0),
    minimum_n=5,
  )
  for source in SOURCES
  for name in NAMES
)

_RECORDS = {record.name: record for record in METRICS}

_Judged = tuple[np.ndarray, np.ndarray, tuple[str, ...], np.ndarray]


def measure(
  records: records_lib.Records,
  column: columns_lib.Column,
  *,
  expert: google_labels_lib.GoogleLabels | None = None,
  cache: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Trains on the training split and judges the held-out splits."""
  rows = np.flatnonzero(column.present("train"))
  findings = records.fields("train")["findings"][rows]
  targets = targets_of(findings, records.vocabulary)
  classifier = embedding_fit.train(
    column, rows, targets, cache=cache, progress=progress
  )
  about = column.description
  judge = f"logistic regression on {about.name}, mean"
  fields = Fields(judge=judge, standin=about.standin, of="real")
  judged_on = _judged_on(records, column, classifier, expert, cache)
  return [
    one
    for source, judged in judged_on.items()
    for one in expert_labels.figures(
      *judged,
      fields=fields,
      untrained=_untrained(classifier, judged[2]),
      records={name: _RECORDS[f"{name} ({source})"] for name in NAMES},
    )
  ]


def targets_of(
  findings: np.ndarray, vocabulary: Sequence[str] = metadata.FINDINGS
) -> np.ndarray:
  """Joins findings [n k] to `TARGETS` [n 17], uint8; float32 with nan for unknown.

  A union that is no finding of its own is present with any of its findings, absent
  without all of them, and else unknown.
  """
  own = labels_lib.aligned(findings, vocabulary, metadata.FINDINGS)
  own = np.where(np.isnan(own), np.nan, own > 0.5)
  unions = []
  for union, names in expert_labels.UNIONS.items():
    stated = labels_lib.aligned(findings, vocabulary, [union])[:, 0]
    parts = own[:, [metadata.FINDINGS.index(name) for name in names]]
    joined = np.where((parts > 0.5).any(axis=1), 1, parts.sum(axis=1))
    unions.append(np.where(np.isnan(stated), joined, stated > 0.5))
  targets = np.concatenate([own, np.stack(unions, axis=1)], axis=1)
  return targets.astype(np.uint8 if np.isfinite(targets).all() else np.float32)


def _untrained(
  classifier: embedding_fit.Classifier, names: Sequence[str]
) -> dict[str, str]:
  """Names without a score -> the reason."""
  alone = f"one class alone in the {classifier.num_images:,} training images"
  known = dict(zip(TARGETS, classifier.known, strict=True))
  return {
    name: alone if name in known else "NIH has no label of it to train on"
    for name in names
    if not known.get(name)
  }


def _judged_on(
  records: records_lib.Records,
  column: columns_lib.Column,
  classifier: embedding_fit.Classifier,
  expert: google_labels_lib.GoogleLabels | None,
  cache: pathlib.Path | None,
) -> dict[str, _Judged]:
  """Source of labels -> scores [n k], labels [n k], k findings, patients [n]."""
  ids, scores, findings, patients = [], [], [], []
  for split in expert_labels.HELD_OUT:
    rows = np.flatnonzero(column.present(split))
    path = cache and cache / f"embedding_scores-{classifier.fingerprint}-{split}.npz"
    score_fn = functools.partial(classifier.scores, column.source(split), rows)
    scores.append(checked_files.load_or_make(path, score_fn))
    ids.append(records.ids(split)[rows])
    findings.append(records.fields(split)["findings"][rows])
    patients.append(records.fields(split)["patient"][rows])
  test = expert_labels.HELD_OUT.index("test")
  nih = metadata.FINDINGS
  judged: dict[str, _Judged] = {
    SOURCES[0]: (
      _scores_of(scores[test], nih),
      1.0 * labels_lib.aligned(findings[test], records.vocabulary, nih),
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
      given = np.array([of_id[stems[row]] for row in rows], np.float64)
      given = given.reshape(len(rows), len(names))
      of_rows = np.concatenate(patients)[rows]
      judged[source] = _scores_of(every[rows], names), given, names, of_rows
  return judged


def _scores_of(scores: np.ndarray, names: Sequence[str]) -> np.ndarray:
  """Columns of `TARGETS` as [n k] of these names; 0 for what is no target."""
  columns = [TARGETS.index(name) if name in TARGETS else -1 for name in names]
  return np.pad(scores, ((0, 0), (0, 1)))[:, columns].astype(np.float64)
