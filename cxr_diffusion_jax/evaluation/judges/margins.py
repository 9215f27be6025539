"""Zero-shot margins of images as figures: AUROC, precision, and how large they are.

margins [n k], requested [n k] -> AUROC, average precision, found, false alarms at 0
                               -> mean margin with a finding, and without it
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric

JUDGE = "ELIXR zero-shot, best of 32 outputs"

# Finding -> a sentence with it and a sentence without it, short as in a report: in the
# manner of Xu et al., ELIXR, 2308.01317.
PROMPTS: Mapping[str, tuple[str, str]] = MappingProxyType({
  "Atelectasis": ("atelectasis", "no atelectasis"),
  "Cardiomegaly": ("enlarged heart, cardiomegaly", "normal heart size"),
  "Consolidation": ("consolidation", "no consolidation"),
  "Edema": ("pulmonary edema", "no pulmonary edema"),
  "Effusion": ("large pleural effusion", "no pleural effusion"),
  "Emphysema": ("emphysema", "no emphysema"),
  "Fibrosis": ("pulmonary fibrosis", "no pulmonary fibrosis"),
  "Hernia": ("hiatal hernia", "no hiatal hernia"),
  "Infiltration": ("lung infiltrate", "no lung infiltrate"),
  "Mass": ("lung mass", "no lung mass"),
  "Nodule": ("lung nodule", "no lung nodule"),
  "Pleural_Thickening": ("pleural thickening", "no pleural thickening"),
  "Pneumonia": ("pneumonia", "no pneumonia"),
  "Pneumothorax": ("small pneumothorax", "no pneumothorax"),
})  # fmt: skip

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
  scores: np.ndarray,
  asked: np.ndarray,
  names: Sequence[str],
  *,
  judge: str = JUDGE,
  standin: bool = False,
  of: str = "generated",
  min_positives: int = 5,
  num_replicates: int = 1000,
  seed: int = 0,
) -> list[Measurement]:
  """Figures of adherence and mean margins, per finding and over findings.

  A finding counts as seen where its margin is above 0.

  Args:
    scores: [n k] margins.
    asked: [n k] bool.
    names: of k findings.
    judge: for tables.
    standin: whether the encoder is a stand-in.
    of: "generated", or "real" for labelled images.
    min_positives: images with a finding, for it to count in the means over findings.
    num_replicates: bootstrap samples of n images, for the intervals.
    seed: of the bootstrap.

  Raises:
    errors.InputError: no finding has enough images.
  """
  figures = adherence.measure(
    scores,
    asked,
    np.zeros(len(names)),
    min_positives,
    num_replicates=num_replicates,
    seed=seed,
  )
  common = Fields(judge=judge, standin=standin, of=of)
  table = adherence.to_measurements(figures, names, **common)
  few = f"fewer than {min_positives} of {len(scores)} images have it, or all have"
  groups = ["all", *(f"finding: {name}" for name in names)]
  counted = figures.counted
  for record, chosen in zip(METRICS, (asked, ~asked), strict=True):
    means = iter(
      _mean_margins(scores[:, counted], chosen[:, counted], num_replicates, seed)
    )
    for group, known in zip(groups, [True, *counted], strict=True):
      figure = next(means) if known else Fields(value=None, reason=few)
      table.append(record.measurement(common, figure, group=group, num=len(scores)))
  return table


def _mean_margins(
  scores: np.ndarray, chosen: np.ndarray, num_replicates: int, seed: int
) -> list[Fields]:
  """The mean over findings, then every finding's own mean, with intervals.

  Args:
    scores: [n k].
    chosen: [n k] bool, the images that a finding's mean is over, at least one.
    num_replicates: of the bootstrap over images.
    seed: of it.
  """
  n, generator = len(scores), np.random.default_rng(seed)
  whole = _means(scores, chosen, np.ones((1, n)))[0]
  replicates = np.concatenate([
    _means(scores, chosen, statistics.weights(np.arange(n), count, generator))
    for count in statistics.blocks(num_replicates)
  ])  # fmt: skip
  low, high = np.nanpercentile(replicates, (2.5, 97.5), axis=0)
  return [
    Fields(value=float(value), low=float(a), high=float(b))
    for value, a, b in zip(whole, low, high, strict=True)
  ]


def _means(scores: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """The mean of columns' means and these means, [r 1+k]; NaN where none is chosen."""
  total = weights @ chosen
  sums = weights @ (scores * chosen)
  means = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
  defined = np.isfinite(means)
  overall = np.where(defined, means, 0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)
  return np.concatenate([overall[:, None], means], axis=1)
