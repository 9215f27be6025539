"""Whether generated images reveal the images that the model saw.

training and test images -> `privacy_reference`: how near unseen images are to training
generated images -> `measure`: how near these are -> figures, copies, nearest pairs

Every distance is compared with the same distance of real test images of patients who
are not in training: nearness that these have too reveals nothing. The split must be by
patient, and intervals resample patients. Image embeddings (ELIXR's above all) carry a
patient's identity, so the distance to the image that a condition came from is a figure
of its own.
"""

import dataclasses

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import (
  duplicates,
  membership,
  nearness,
  neighbours,
  privacy_reference,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """A generated image and a training image.

  Attributes:
    generated: row of the generated image.
    training: row of the training image.
    generated_id: its id.
    training_id: its id.
    kind: "exact" copy, "near" copy, or "nearest" and no more.
    distance: of their features.
    real_share: share of real test images that are nearer to training than this.
    correlation: see `duplicates.correlation`; None where it was not computed.
  """

  generated: int
  training: int
  generated_id: str
  training_id: str
  kind: str
  distance: float
  real_share: float
  correlation: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyReport:
  """The result of `measure`.

  Attributes:
    measurements: all figures.
    duplicates: exact copies, then near ones, the most similar first.
    nearest: each generated image with its nearest training image, nearest pair first.
  """

  measurements: list[Measurement]
  duplicates: list[Pair]
  nearest: list[Pair]


def measure(
  features: np.ndarray,
  generated: ImageSet,
  reference: privacy_reference.Reference,
  *,
  conditioning: np.ndarray | None = None,
  num_replicates: int = 1000,
  seed: int = 0,
  progress: types.Progress = types.no_progress,
) -> PrivacyReport:
  """Measures how near generated images are to training and conditioning images.

  Args:
    features: [n d] of the generated images, by the extractor of the reference.
    generated: the n images; label "patient", where known, is the patient of the image
      that the condition came from.
    reference: of `privacy_reference.make_reference`.
    conditioning: [n d], features of the images that the conditions came from; None
      where conditions came from no image.
    num_replicates: of the bootstrap.
    seed: of it and of the choice of training images in the membership figure.
    progress: called during long work.

  Raises:
    errors.InputError: no images, or of another size than those trained on.
    ValueError: features that are not of these images.
  """
  privacy_reference.check_features(features, generated)
  privacy_reference.check_sizes(reference.training, generated)
  real = nearness.RealDistances(
    distances=reference.distances,
    groups=privacy_reference.patients(reference.test),
    num_training=len(reference.training),
    judge=reference.judge,
    standin=reference.standin,
    num_replicates=num_replicates,
    seed=seed,
  )
  distances, rows = neighbours.nearest(
    features, reference.training_features, reference.num_candidates
  )
  groups = privacy_reference.patients(generated)
  measurements = nearness.measure(
    real, distances[:, 0], groups, to="training", num_real=len(reference.training)
  )
  known = generated.labels.get("patient")
  if conditioning is not None:
    measurements += nearness.to_conditions(real, features, conditioning, groups, known)
  copies = _copies(features, generated, reference, rows, progress)
  measurements += _shares_of_copies(copies, len(generated), reference, real)
  measurements.append(
    membership.measure(
      real,
      features,
      None if known is None else groups,
      training=(
        reference.training_features,
        privacy_reference.patients(reference.training),
      ),
      test=(reference.test_features, privacy_reference.patients(reference.test)),
    )
  )
  nearest = [
    _pair("nearest", row, rows[row, 0], distances[row, 0], generated, reference)
    for row in np.argsort(distances[:, 0], kind="stable")
  ]
  return PrivacyReport(measurements=measurements, duplicates=copies, nearest=nearest)


def _shares_of_copies(
  copies: list[Pair],
  num: int,
  reference: privacy_reference.Reference,
  real: nearness.RealDistances,
) -> list[Measurement]:
  exact = {pair.generated for pair in copies if pair.kind == "exact"}
  either = {pair.generated for pair in copies}
  num_real = len(reference.test)
  real_exact, real_either = int(reference.exact.sum()), int(reference.copied.sum())
  return [
    nearness.copies(real, "exact_copies", len(exact), num, "generated"),
    nearness.copies(real, "exact_copies", real_exact, num_real, "real"),
    nearness.copies(real, "copies", len(either), num, "generated"),
    nearness.copies(real, "copies", real_either, num_real, "real"),
  ]


def _copies(
  features: np.ndarray,
  generated: ImageSet,
  reference: privacy_reference.Reference,
  rows: np.ndarray,
  progress: types.Progress,
) -> list[Pair]:
  """Exact copies in order, then near ones, the most similar first."""
  scan = duplicates.scan(generated.images)
  exact = duplicates.exact(scan, reference.scan)
  proposed = np.hstack(
    [rows, privacy_reference.by_thumbnails(scan, reference.scan, rows.shape[1])]
  )
  originals, correlations = duplicates.likeliest(
    generated.images, reference.training.images, proposed, progress=progress
  )
  known = {row for row, _ in exact}
  near = [
    (int(row), int(originals[row]))
    for row in np.argsort(-correlations, kind="stable")
    if correlations[row] > reference.threshold and row not in known
  ]
  pairs = [("exact", *pair) for pair in exact] + [("near", *pair) for pair in near]
  copies = []
  for kind, row, other in pairs:
    gap = features[row].astype(np.float64) - reference.training_features[other]
    pair = _pair(kind, row, other, np.linalg.norm(gap), generated, reference)
    correlation = 1.0 if kind == "exact" else float(correlations[row])
    copies.append(dataclasses.replace(pair, correlation=correlation))
  return copies


def _pair(
  kind: str,
  row: int,
  other: int,
  distance: float | np.floating,
  generated: ImageSet,
  reference: privacy_reference.Reference,
) -> Pair:
  return Pair(
    generated=int(row),
    training=int(other),
    generated_id=str(generated.ids[row]),
    training_id=str(reference.training.ids[other]),
    kind=kind,
    distance=float(distance),
    real_share=float((reference.distances < distance).mean()),
  )
