"""Whether generated images reveal images that the model was trained on.

training and test images -> `make_reference`: how near unseen images are to training
generated images -> `measure`: how near these are -> figures, copies, nearest pairs

Every distance is compared with the same distance of real test images of patients who
are not in training: nearness that these have too reveals nothing. The split must be by
patient. Image embeddings (ELIXR's above all) carry a
patient's identity, so the distance to the image that a condition came from is a figure
of its own.
"""

from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.image_sets import duplicates
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metrics import (
  fidelity,
  membership,
  nearness,
  neighbours,
)

# Training images that are proposed as an image's original, by each kind of distance.
NUM_CANDIDATES = 5


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
  """Training and test images, prepared once for all sets that are measured."""

  training: ImageSet
  training_features: np.ndarray  # [m d]
  test: ImageSet  # of other patients
  test_features: np.ndarray  # [t d]
  distances: np.ndarray  # [t], of test images to their nearest training images
  scan: duplicates.Scan
  exact: np.ndarray  # [t] bool, test images with exactly the pixels of a training image
  copied: np.ndarray  # [t] bool, test images that are copies of one, exact or near
  threshold: float  # correlation above which an image is a copy
  judged: Fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """A generated image and a training image."""

  generated: int
  training: int
  generated_id: str
  training_id: str
  kind: str  # "exact" or "near" copy; "nearest" or its condition's "own", and no more
  distance: float
  real_share: float  # share of real test images that are nearer to training than this
  correlation: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyReport:
  """The result of `measure`."""

  measurements: list[Measurement]
  duplicates: list[Pair]  # exact copies, then near ones, the most similar first
  nearest: list[Pair]


def make_reference(
  training_features: np.ndarray,
  test_features: np.ndarray,
  *,
  training: ImageSet,
  test: ImageSet,
  extractor: Extractor,
  cache: pathlib.Path | None = None,
  key: str = "",
  progress: types.Progress = types.no_progress,
) -> Reference:
  """Measures how near unseen real images are to training images.

  Raises:
    errors.InputError: no images, or of two sizes.
  """
  check_features(training_features, training)
  check_features(test_features, test)
  check_sizes(training, test)
  scan = duplicates.scan(training.images, cache=cache, key=key, progress=progress)
  test_scan = duplicates.scan(test.images)
  num = min(NUM_CANDIDATES, len(training))
  distances, rows = neighbours.nearest(test_features, training_features, num)
  _, similar = neighbours.nearest(test_scan.thumbnails, scan.thumbnails, num)
  _, correlations = duplicates.likeliest(
    test.images, training.images, np.hstack([rows, similar]), progress=progress
  )
  threshold = duplicates.threshold(correlations)
  exact = np.zeros(len(test), bool)
  exact[[row for row, _ in duplicates.exact(test_scan, scan)]] = True
  return Reference(
    training=training,
    training_features=training_features,
    test=test,
    test_features=test_features,
    distances=distances[:, 0],
    scan=scan,
    exact=exact,
    copied=exact | (correlations > threshold),
    threshold=threshold,
    judged=fidelity.judged_by(extractor),
  )


def measure(
  features: np.ndarray,
  generated: ImageSet,
  reference: Reference,
  *,
  conditioning: np.ndarray | None = None,
  seed: int = 0,
  progress: types.Progress = types.no_progress,
) -> PrivacyReport:
  """Measures how near generated images are to training and conditioning images.

  Args:
    features: [n d] of the generated images, by the extractor of the reference.
    generated: the n images; label "patient", where known, is the patient of the image
      that the condition came from.
    conditioning: [n d], features of the images that the conditions came from; None
      where conditions came from no image.

  Raises:
    errors.InputError: no images, or of another size than those trained on.
  """
  check_features(features, generated)
  check_sizes(reference.training, generated)
  real = nearness.RealDistances(
    distances=reference.distances,
    groups=reference.test.patients,
    num_training=len(reference.training),
    judged=reference.judged,
    seed=seed,
  )
  distances, rows = neighbours.nearest(
    features, reference.training_features, min(NUM_CANDIDATES, len(reference.training))
  )
  groups = generated.patients
  measurements = nearness.measure(
    real, distances[:, 0], groups, to="training", num_real=len(reference.training)
  )
  known = generated.labels.get("patient")
  if conditioning is not None:
    measurements += nearness.to_conditions(real, features, conditioning, groups, known)
  copies = find_copies(features, generated, reference, rows, progress)
  measurements += _shares_of_copies(copies, groups, reference, real)
  measurements.append(
    membership.measure(
      real,
      features,
      None if known is None else groups,
      training=(reference.training_features, reference.training.patients),
      test=(reference.test_features, reference.test.patients),
    )
  )
  return PrivacyReport(
    measurements=_with_patients(measurements, generated, reference),
    duplicates=copies,
    nearest=[
      pair_of("nearest", row, rows[row, 0], distances[row, 0], generated, reference)
      for row in np.argsort(distances[:, 0], kind="stable")
    ],
  )


def _with_patients(
  measurements: Sequence[Measurement], generated: ImageSet, reference: Reference
) -> list[Measurement]:
  """Adds the numbers of patients on both sides of each comparison."""
  counts = {"generated": generated.num_patients, "real": reference.test.num_patients}
  return [
    dataclasses.replace(
      one, patients=counts[one.of], real_patients=reference.training.num_patients
    )
    for one in measurements
  ]


def check_features(features: np.ndarray, images: ImageSet) -> None:
  """Raises unless features [n d] are of these n images, and there are some."""
  if not len(images):
    raise errors.InputError(f"no images in {images.name}")
  if features.ndim != 2 or len(features) != len(images):
    raise ValueError(f"features {features.shape} of {len(images)} images")


def check_sizes(training: ImageSet, images: ImageSet) -> None:
  """Raises `errors.InputError` for images of another size than in training."""
  sizes = [x.images[0].shape[:2] for x in (images, training)]
  if sizes[0] != sizes[1]:
    raise errors.InputError(
      f"{images.name}: images of {sizes[0][0]}x{sizes[0][1]} pixels",
      f"{sizes[1][0]}x{sizes[1][1]}, as the training images have",
    )


def _shares_of_copies(
  copies: list[Pair],
  groups: np.ndarray,
  reference: Reference,
  real: nearness.RealDistances,
) -> list[Measurement]:
  exact, either = np.zeros((2, len(groups)), bool)
  exact[[pair.generated for pair in copies if pair.kind == "exact"]] = True
  either[[pair.generated for pair in copies]] = True
  return [
    nearness.copies(real, name, copied, names, of)
    for name, own, unseen in (
      ("exact_copies", exact, reference.exact),
      ("copies", either, reference.copied),
    )
    for copied, names, of in (
      (own, groups, "generated"),
      (unseen, real.groups, "real"),
    )
  ]


def find_copies(
  features: np.ndarray,
  generated: ImageSet,
  reference: Reference,
  rows: np.ndarray,
  progress: types.Progress = types.no_progress,
) -> list[Pair]:
  """Exact copies in order, then near ones, the most similar first.

  Args:
    features: [n d] of the generated images.
    rows: [n k] of training images, which are proposed as originals.
  """
  scan = duplicates.scan(generated.images)
  exact = duplicates.exact(scan, reference.scan)
  _, similar = neighbours.nearest(
    scan.thumbnails, reference.scan.thumbnails, rows.shape[1]
  )
  originals, correlations = duplicates.likeliest(
    generated.images,
    reference.training.images,
    np.hstack([rows, similar]),
    progress=progress,
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
    pair = pair_of(kind, row, other, np.linalg.norm(gap), generated, reference)
    correlation = 1.0 if kind == "exact" else float(correlations[row])
    copies.append(dataclasses.replace(pair, correlation=correlation))
  return copies


def pair_of(
  kind: str,
  row: int,
  other: int,
  distance: float | np.floating,
  generated: ImageSet,
  reference: Reference,
) -> Pair:
  """A generated image [row] beside the training image [other], and their distance."""
  return Pair(
    generated=int(row),
    training=int(other),
    generated_id=str(generated.ids[row]),
    training_id=str(reference.training.ids[other]),
    kind=kind,
    distance=float(distance),
    real_share=float((reference.distances < distance).mean()),
  )
