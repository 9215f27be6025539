"""What zero-shot margins say of images: AUROC, precision, and how large they are.

margins [n k] + asked [n k] -> AUROC, average precision, found, false alarms at 0
                            -> mean margin of images with a finding, and of the others
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from cxr_diffusion_jax.evaluation.judges import adherence, adherence_table
from cxr_diffusion_jax.evaluation.measurement import Measurement

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

# Replicates that are computed at once: n weights stand in memory for each.
_BLOCK = 64


def figures(
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
  """AUROC, average precision and mean margins, per finding and over findings.

  A finding is said to be seen where its margin is above 0.

  Args:
    scores: [n k] margins.
    asked: [n k] bool.
    names: of k findings.
    judge: for people.
    standin: whether it stands in for ELIXR.
    of: see `measure`.
    min_positives: images with a finding, for it to count in the means over findings.
    num_replicates: bootstrap samples of n images, for the intervals.
    seed: of the bootstrap.

  Raises:
    errors.InputError: no finding has enough images.
  """
  judged = adherence.measure(
    scores,
    asked,
    np.zeros(len(names)),
    min_positives,
    num_replicates=num_replicates,
    seed=seed,
  )
  table = adherence_table.to_measurements(
    judged, names, judge=judge, standin=standin, of=of
  )
  common = {"subject": "adherence", "judge": judge, "standin": standin, "of": of}
  few = f"fewer than {min_positives} of {len(scores)} images have it, or all have"
  groups = ["all", *(f"finding: {name}" for name in names)]
  counted = judged.counted
  for metric, chosen in (("margin_with", asked), ("margin_without", ~asked)):
    means = iter(
      _mean_margins(scores[:, counted], chosen[:, counted], num_replicates, seed)
    )
    for group, known in zip(groups, [True, *counted], strict=True):
      figure = next(means) if known else {"value": None, "reason": few}
      table.append(
        Measurement(**common, metric=metric, group=group, num=len(scores), **figure)
      )
  return table


def _mean_margins(
  scores: np.ndarray, chosen: np.ndarray, num_replicates: int, seed: int
) -> list[dict[str, float]]:
  """Value, low and high of the mean over findings, then of every finding's own mean.

  Args:
    scores: [n k].
    chosen: [n k] bool, the images that a finding's mean is over, at least one.
    num_replicates: of the bootstrap over images.
    seed: of it.
  """
  generator = np.random.default_rng(seed)
  n = len(scores)
  blocks = [_weighted(scores, chosen, np.ones((1, n)))]
  for first in range(0, num_replicates, _BLOCK):
    size = min(_BLOCK, num_replicates - first)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=size)
    blocks.append(_weighted(scores, chosen, weights.astype(np.float64)))
  means = np.concatenate(blocks)
  low, high = np.nanpercentile(means[1:], (2.5, 97.5), axis=0)
  return [
    {"value": float(value), "low": float(a), "high": float(b)}
    for value, a, b in zip(means[0], low, high, strict=True)
  ]


def _weighted(
  scores: np.ndarray, chosen: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """The mean of columns' means and these means, [r 1+k]; NaN where none is chosen."""
  total = weights @ chosen
  sums = weights @ (scores * chosen)
  means = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
  defined = np.isfinite(means)
  overall = np.where(defined, means, 0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)
  return np.concatenate([overall[:, None], means], axis=1)
