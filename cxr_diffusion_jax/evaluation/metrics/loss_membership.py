"""Whether the denoising loss distinguishes training patients from unseen ones.

losses [n t] of an image of each training and validation patient, of the same list
  -> less those of a reference model -> standardised at each time, by unseen patients
  -> mean over times -> lower for training patients? -> TPR at 1 % FPR, AUROC

Attack by loss: Matsumoto et al. 2023 (2302.03262), Carlini et al. 2023 (2301.13188,
section 5). Some images are easier than others, whatever was trained on; a reference
model's losses remove that (Watson et al. 2022, 2111.08440).
"""

import numpy as np

from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import membership, nearness

METRICS = tuple(
  Metric(
    name=name,
    subject="privacy",
    meaning=meaning,
    direction="lower",
    bounds=(0.0, 1.0),
    minimum_n=least,
  )
  for name, meaning, least in (
    (
      "loss_tpr",
      "Training patients whose denoising loss is lower than that of 99 % of validation"
      " patients. 0.01: nothing leaks.",
      membership.MIN_FOR_TPR,
    ),
    (
      "loss_auroc",
      "AUROC of distinguishing training from validation patients by the denoising loss."
      " 0.5: nothing leaks.",
      nearness.MIN_IMAGES,
    ),
  )
)


def measure(
  seen: np.ndarray,
  unseen: np.ndarray,
  patients: tuple[np.ndarray, np.ndarray],
  *,
  judge: str,
) -> list[Measurement]:
  """TPR and AUROC of losses.

  Args:
    seen: [n t] of an image of each training patient, at the same times.
    unseen: [m t] of an image of each validation patient.
    patients: names [n] and [m].
    judge: names the loss and what it was calibrated by.
  """
  fields = Fields(
    num=len(seen),
    num_real=len(unseen),
    patients=len(np.unique(patients[0])),
    real_patients=len(np.unique(patients[1])),
    judge=judge,
  )
  figures = []
  for record, sides_fn in zip(
    METRICS, (membership.tpr_fn, membership.auroc_fn), strict=True
  ):
    if min(len(seen), len(unseen)) < record.minimum_n:
      reason = (
        f"{len(seen)} training and {len(unseen)} validation patients; expected"
        f" {record.minimum_n} of each"
      )
      figures.append(record.measurement(fields, value=None, reason=reason))
    else:
      figure_fn = sides_fn(*scores(seen, unseen))
      figure = statistics.estimate(figure_fn, *patients)
      figures.append(record.measurement(fields, figure))
  return figures


def scores(seen: np.ndarray, unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean standardised losses [n] and [m]; lower where an image was trained on."""
  mean, std = unseen.mean(axis=0), unseen.std(axis=0)
  scale = np.where(std > 0, std, 1.0)
  standardised = [((losses - mean) / scale).mean(axis=1) for losses in (seen, unseen)]
  return standardised[0], standardised[1]
