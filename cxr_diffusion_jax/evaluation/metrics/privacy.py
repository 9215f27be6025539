"""Whether generated images give away the images that they were learned or made from.

training and test images -> `privacy_reference`: how near unseen images are to training
generated images -> `measure`: how near these are -> figures, copies, nearest pairs

Every distance is held against the same distance of real test images, whose patients
nobody trained on: nearness that these have too gives nothing away. Which patients are
known matters: the split must be by patient, intervals resample patients. Image
embeddings (ELIXR's above all) carry a patient's identity, so the distance to the image
that a condition came from is a figure of its own.
"""

import dataclasses
import functools

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.evaluation.image_set import ImageSet
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import (
  duplicates,
  membership,
  nearness,
  neighbours,
  privacy_reference,
)
from cxr_diffusion_jax.evaluation.statistics import cluster_bootstrap


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
    correlation: see `duplicates.correlation`; None where it was not asked for.
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
  """What was found.

  Attributes:
    measurements: all figures.
    duplicates: exact copies, then near ones, the most alike first.
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
    reference: by `privacy_reference.make_reference`.
    conditioning: [n d], features of the images that the conditions came from; None
      where conditions came from no image.
    num_replicates: of the bootstrap.
    seed: of it and of the choice of training images in the membership figure.
    progress: told during long work.

  Raises:
    errors.InputError: no images, or of another size than those trained on.
    ValueError: features that are not of these images.
  """
  privacy_reference.check_features(features, generated)
  privacy_reference.check_sizes(reference.training, generated)
  yardstick = nearness.Yardstick(
    distances=reference.distances,
    groups=privacy_reference.patients(reference.test),
    num_training=len(reference.training),
    judge=reference.judge,
    standin=reference.standin,
    estimate_fn=functools.partial(
      cluster_bootstrap.estimate, num_replicates=num_replicates, seed=seed
    ),
  )
  num = privacy_reference.num_candidates(reference.training)
  found, rows = neighbours.nearest(features, reference.training_features, num)
  groups = privacy_reference.patients(generated)
  measurements = nearness.nearness(
    yardstick, found[:, 0], groups, to="training", num_real=len(reference.training)
  )
  if conditioning is not None:
    patients = generated.labels.get("patient")
    measurements += nearness.to_conditions(
      yardstick, features, conditioning, groups, patients
    )
  copies = _copies(features, generated, reference, rows, progress)
  measurements += _shares_of_copies(copies, len(generated), reference, yardstick)
  measurements.append(_membership(features, generated, reference, yardstick, seed))
  nearest = [
    _pair("nearest", row, rows[row, 0], found[row, 0], generated, reference)
    for row in np.argsort(found[:, 0], kind="stable")
  ]
  return PrivacyReport(measurements=measurements, duplicates=copies, nearest=nearest)


def _shares_of_copies(
  copies: list[Pair],
  num: int,
  reference: privacy_reference.Reference,
  yardstick: nearness.Yardstick,
) -> list[Measurement]:
  exact = {pair.generated for pair in copies if pair.kind == "exact"}
  either = {pair.generated for pair in copies}
  num_real = len(reference.test)
  real_exact, real_either = int(reference.exact.sum()), int(reference.copied.sum())
  return [
    nearness.copies(yardstick, "exact_copies", len(exact), num, "generated"),
    nearness.copies(yardstick, "exact_copies", real_exact, num_real, "real"),
    nearness.copies(yardstick, "copies", len(either), num, "generated"),
    nearness.copies(yardstick, "copies", real_either, num_real, "real"),
  ]


def _copies(
  features: np.ndarray,
  generated: ImageSet,
  reference: privacy_reference.Reference,
  rows: np.ndarray,
  progress: types.Progress,
) -> list[Pair]:
  """Exact copies in order, then near ones, the most alike first."""
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


def _membership(
  features: np.ndarray,
  generated: ImageSet,
  reference: privacy_reference.Reference,
  yardstick: nearness.Yardstick,
  seed: int,
) -> Measurement:
  """The figure of `membership`, or why there is none."""
  training = privacy_reference.patients(reference.training)
  test = privacy_reference.patients(reference.test)
  known = "patient" in generated.labels
  of_generated = privacy_reference.patients(generated) if known else None
  chosen, unseen = membership.sample(training, test, seed=seed)
  sides = []
  for patients, real in (
    (training[chosen], reference.training_features[chosen]),
    (test[unseen], reference.test_features[unseen]),
  ):
    gap = membership.distances(real, patients, features, of_generated)
    # A patient who has all generated images for his own cannot be asked about.
    sides.append((gap[np.isfinite(gap)], patients[np.isfinite(gap)]))
  (members, of_members), (others, of_others) = sides
  fewest, least = min(len(members), len(others)), membership.MIN_IMAGES
  fields = {"num": len(features), "num_real": 2 * fewest, "better": "lower"}
  if fewest < least:
    reason = (
      f"{fewest} images trained on, or of unseen patients; {least} of each are needed"
    )
    return yardstick.figure("membership_auroc", None, reason=reason, **fields)
  estimate = membership.auroc(
    members, others, groups=(of_members, of_others), estimate_fn=yardstick.estimate_fn
  )
  return yardstick.figure("membership_auroc", **dataclasses.asdict(estimate), **fields)


def _pair(
  kind: str,
  row: int,
  other: int,
  distance: float,
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
