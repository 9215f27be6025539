"""How well images show the requested findings, by ELIXR's margins.

images --`encoders.elixr.zero_shot`--> margins [n 14]
  -> AUROC, average precision, found, false alarms at 0, mean margins with and without

Nothing is trained here: the judge has never seen the findings' labels.
"""

from collections.abc import Sequence
import pathlib

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.elixr.zero_shot import BLOCK, Scorer, margins
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric

JUDGE = "ELIXR zero-shot, best of 32 outputs"

_MEANING = "Similarity to the finding's text less similarity to that of its absence, in"
METRICS = tuple(
  Metric(
    name=name,
    subject="adherence",
    meaning=f"{_MEANING} {images}.",
    bounds=(-2.0, 2.0),
    minimum_n=5,
  )
  for name, images in (
    ("margin_with", "images that were to show it"),
    ("margin_without", "images that were not"),
  )
)


def measure(
  scorer: Scorer,
  images: ImageSet,
  *,
  of: str = "generated",
  cache: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Encodes images with the label `findings`, and judges them.

  Raises:
    errors.InputError: no finding with enough images.
  """
  findings = np.asarray(images.labels["findings"])
  requested = labels.aligned(findings, images.vocabulary, scorer.names)
  # Encoding is slow: refuse what can be refused first.
  adherence.check(np.zeros(requested.shape), requested, np.zeros(requested.shape[1]))
  scores = scorer.margins(images.images, cache=cache, progress=progress)
  fields = Fields(judge=JUDGE, of=of, patients=images.num_patients)
  return _measure_margins(scorer, scores, requested, images.patients, fields)


def measure_column(
  scorer: Scorer,
  column: columns_lib.Column,
  split: str,
  findings: np.ndarray,
  patients: np.ndarray,
  *,
  vocabulary: Sequence[str],
) -> list[Measurement]:
  """Judges the stored embeddings of real images, without encoding them again.

  They are of the original images, not of the records' squares.

  Args:
    findings: [n k], the split's labels; rows without a value are left out.
    patients: [n] of the split.
    vocabulary: names of the k findings.

  Raises:
    errors.InputError: another encoder's column, or no finding with enough images.
  """
  encoder = column.description.encoder
  nameless = encoder_lib.NAMELESS in encoder and not scorer.encoder.standin
  if not nameless and not encoder.startswith(scorer.encoder.description):
    raise errors.InputError(
      f"the column {column.description.name} of {encoder}",
      f"one of {scorer.encoder.description}, which encodes the prompts",
    )
  rows = np.flatnonzero(column.present(split))
  source = column.source(split)
  scores = [np.zeros((0, len(scorer.names)), np.float32)]
  for first in range(0, len(rows), BLOCK):
    block = np.stack([source[int(row)] for row in rows[first : first + BLOCK]])
    scores.append(margins(block, scorer.positive, scorer.negative))
  scores = np.concatenate(scores)
  requested = labels.aligned(np.asarray(findings)[rows], vocabulary, scorer.names)
  patients = np.asarray(patients)[rows]
  num_patients = len(np.unique(patients))
  fields = Fields(judge=f"{JUDGE}, stored", of="real", patients=num_patients)
  return _measure_margins(scorer, scores, requested, patients, fields)


def _measure_margins(
  scorer: Scorer,
  scores: np.ndarray,
  requested: np.ndarray,
  patients: np.ndarray,
  fields: Fields,
) -> list[Measurement]:
  """Figures of adherence and mean margins [n k]; above 0 a finding counts as seen.

  `requested` [n k] is 0, 1 or nan for unknown.
  """
  names, zeros = scorer.names, np.zeros(len(scorer.names))
  figures = adherence.measure(scores, requested, zeros, patients=patients)
  common = fields | Fields(standin=scorer.encoder.standin)
  table = adherence.to_measurements(figures, names, **common)
  least, counted = adherence.MIN_POSITIVES, figures.counted
  few = f"fewer than {least} of {len(scores)} images have it, or all have"
  groups = ["all", *(f"finding: {name}" for name in names)]
  for record, chosen in zip(METRICS, (requested > 0.5, requested <= 0.5), strict=True):
    means = iter(
      statistics.means_of_chosen(scores[:, counted], chosen[:, counted], patients)
    )
    for group, known in zip(groups, [True, *counted], strict=True):
      figure = next(means) if known else Fields(value=None, reason=few)
      table.append(record.measurement(common, figure, group=group, num=len(scores)))
  return table
