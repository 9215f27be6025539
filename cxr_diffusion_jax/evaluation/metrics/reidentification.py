"""Whether a network recognises the patients of training images in generated ones.

condition of a training image -> generated image --embedding--> distance to that image
  same patient   the image whose condition it was generated for
  other patient  the images of the other conditions
  -> AUROC, TPR at 1 % FPR of "the same patient"; the same of pairs of real images

The network is trained to verify patients (Packhaeuser et al. 2022, "Deep learning-based
patient re-identification is able to exploit the biometric nature of medical chest X-ray
data"). A condition that is made from an image may hold the patient's anatomy without
that anything was memorised.
"""

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import membership, nearness
from cxr_diffusion_jax.evaluation.metrics.memorisation import Conditioned

METRICS = tuple(
  Metric(
    name=f"reidentification_{name}",
    subject="privacy",
    meaning=f"{meaning} of verifying that a generated image and the training image of"
    f" its condition are of one patient. {chance}: no patient is recognised.",
    direction="lower",
    bounds=(0.0, 1.0),
    minimum_n=nearness.MIN_IMAGES,
  )
  for name, meaning, chance in (
    ("auroc", "AUROC", "0.5"),
    ("tpr", "TPR at 1 % FPR", "0.01"),
  )
)

NO_NETWORK = "no network that recognises patients is given"

# Images of other patients that each image is compared with, at most.
_OTHERS = 16


def measure(
  elicited: Conditioned,
  network: Extractor,
  *,
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Verifies patients in images of training conditions, and in real images.

  Of real images, another one of the same patient is verified, where there is one.
  """
  training = elicited.originals
  rows, own = np.unique(elicited.own, return_inverse=True)
  patients = training.patients

  def embed(images: types.Arrays, key: str) -> np.ndarray:
    return extractor_lib.extract(network, images, key=key, progress=progress)

  of_own = embed(training.take(rows).images, "training")
  generated = embed(elicited.generated.images, "elicited")
  spare = np.setdiff1d(np.arange(len(training)), rows)
  first = {str(patients[row]): int(row) for row in spare[::-1]}
  known = [k for k, row in enumerate(rows) if patients[row] in first]
  second = [first[str(patients[rows[k]])] for k in known]
  of_second = embed(training.take(second).images, "other-training")
  fields = Fields(judge=f"{network.name}, {network.layer}")
  return [
    *_verify(generated, of_own[own], patients[rows][own], fields),
    *_verify(of_second, of_own[known], patients[second], fields | Fields(of="real")),
  ]


def _verify(
  vectors: np.ndarray, originals: np.ndarray, patients: np.ndarray, fields: Fields
) -> list[Measurement]:
  """The figures of pairs [n d] of the patients [n]."""
  num = len(np.unique(patients))
  fields = fields | Fields(
    num=len(vectors), patients=num, num_real=len(vectors), real_patients=num
  )
  if num < nearness.MIN_IMAGES:
    reason = f"{num} patients with such images; expected {nearness.MIN_IMAGES}"
    return [one.measurement(fields, value=None, reason=reason) for one in METRICS]
  n = len(vectors)
  steps = np.unique(np.linspace(1, n - 1, _OTHERS).astype(int))
  image = np.repeat(np.arange(n), len(steps))
  other = (image + np.tile(steps, n)) % n
  apart = patients[image] != patients[other]
  image, other = image[apart], other[apart]
  same = np.linalg.norm(vectors - originals, axis=1)
  others = np.linalg.norm(vectors[image] - originals[other], axis=1)
  fns = (membership.auroc_fn(same, others), membership.tpr_fn(same, others))
  return [
    record.measurement(fields, statistics.estimate(fn, patients, patients[image]))
    for record, fn in zip(METRICS, fns, strict=True)
  ]
