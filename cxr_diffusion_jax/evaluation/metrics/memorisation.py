"""Whether conditions of training images elicit these images.

conditions of training images, several noises each -> images -> copies of training
  images; distance of each to its condition's own image
conditions of unseen patients -> images -> the same of their own images
  -> share of copies, excess over unseen conditions, TPR at 1 % FPR, AUROC

Images that are memorised appear for the conditions that they were trained with (Carlini
et al. 2023, 2301.13188), hardly for others. A path that reconstructs its condition's
image copies unseen images too: the excess, TPR and AUROC compare with these. An AUROC
is an average, which a few memorised images do not move; TPR at 1 % FPR counts them
(Carlini et al. 2022, 2112.03570).
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.image_sets import duplicates
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import (
  membership,
  nearness,
  neighbours,
  privacy,
)

METRICS = (
  Metric(
    name="elicited_copies",
    subject="privacy",
    meaning="Images generated from conditions of training images that are copies of a"
    " training image.",
    direction="lower",
    bounds=(0.0, 1.0),
  ),
  Metric(
    name="elicited_copies_excess",
    subject="privacy",
    meaning="Share of images that are copies of their condition's own image: of"
    " conditions of training images, less that of unseen patients. 0: nothing leaks.",
    direction="lower",
    bounds=(-1.0, 1.0),
  ),
  Metric(
    name="elicited_tpr",
    subject="privacy",
    meaning="Images from conditions of training images that are nearer to their own"
    " image than 99 % of those of unseen patients. 0.01: nothing leaks.",
    direction="lower",
    bounds=(0.0, 1.0),
    minimum_n=nearness.MIN_IMAGES,
  ),
  Metric(
    name="elicited_auroc",
    subject="privacy",
    meaning="AUROC of distinguishing conditions of training images from those of unseen"
    " patients by the distance to their own image. 0.5: nothing leaks.",
    direction="lower",
    bounds=(0.0, 1.0),
    minimum_n=nearness.MIN_IMAGES,
  ),
)
_RECORDS = {record.name: record for record in METRICS}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Conditioned:
  """Images and the real images that their conditions came from.

  Attributes:
    generated: n images; their label "patient" is that of the condition.
    originals: the real images.
    own: [n] row of the original of each generated image.
    features: [n d] of the generated images.
    original_features: [m d] of the real images.
  """

  generated: ImageSet
  originals: ImageSet
  own: np.ndarray
  features: np.ndarray
  original_features: np.ndarray

  def take(self, rows: np.ndarray) -> "Conditioned":
    """Some of the generated images."""
    return dataclasses.replace(
      self,
      generated=self.generated.take(rows),
      own=self.own[rows],
      features=self.features[rows],
    )

  def distances(self) -> np.ndarray:
    """Distance of each image to its original, by features: [n]."""
    gap = self.features.astype(np.float64) - self.original_features[self.own]
    return np.linalg.norm(gap, axis=1)

  def copied(self, threshold: float, progress: types.Progress) -> np.ndarray:
    """Whether each image correlates more than this with its original: [n] bool."""
    candidates = self.own[:, None]
    _, correlations = duplicates.likeliest(
      self.generated.images, self.originals.images, candidates, progress=progress
    )
    return correlations > threshold


def closest(
  elicited: Conditioned,
  reference: privacy.Reference,
  progress: types.Progress = types.no_progress,
) -> list[privacy.Pair]:
  """Copies of any training image first, then the nearest to their condition's own."""
  num = min(privacy.NUM_CANDIDATES, len(reference.training))
  _, rows = neighbours.nearest(elicited.features, reference.training_features, num)
  copies = privacy.find_copies(
    elicited.features, elicited.generated, reference, rows, progress
  )
  known = {pair.generated for pair in copies}
  distances = elicited.distances()
  return copies + [
    privacy.pair_of(
      "own",
      row,
      int(elicited.own[row]),
      float(distances[row]),
      elicited.generated,
      reference,
    )
    for row in np.argsort(distances, kind="stable").tolist()
    if row not in known
  ]


def measure(
  elicited: Conditioned,
  unseen: Conditioned,
  reference: privacy.Reference,
  pairs: Sequence[privacy.Pair],
  *,
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Compares images of training conditions with those of unseen patients.

  Args:
    elicited: its originals are the training images of the reference.
    pairs: `closest` of these.
    unseen: images of patients in training are left out.
  """
  trained = np.isin(unseen.generated.patients, reference.training.patients)
  others = unseen.take(np.flatnonzero(~trained))
  patients, of_others = elicited.generated.patients, others.generated.patients
  fields = reference.judged | Fields(
    num=len(patients),
    patients=len(np.unique(patients)),
    num_real=len(of_others),
    real_patients=len(np.unique(of_others)),
  )

  def undefined(name: str, least: int) -> Measurement:
    reason = (
      f"{len(patients)} images of training conditions and {len(of_others)} of unseen"
      f" patients; expected {min(least, nearness.MIN_IMAGES)} and {least}"
    )
    return _RECORDS[name].measurement(fields, value=None, reason=reason)

  own = elicited.copied(reference.threshold, progress)
  figures = _copies(elicited, own, reference, fields, pairs)
  if not len(of_others):
    return [*figures, *(undefined(one.name, 1) for one in METRICS[1:])]
  unseen_own = others.copied(reference.threshold, progress)
  excess = statistics.linear(
    own.mean() - unseen_own.mean(), (own, patients), (-1.0 * unseen_own, of_others)
  )
  shares = (own, patients), (unseen_own, of_others)
  each = [statistics.linear(x.mean(), (x, names)) for x, names in shares]
  a, b = (one.ends((0.0, 1.0)) for one in each)
  ends = Fields()
  if a and b:
    low, high = statistics.newcombe(each[0].value, a, each[1].value, b)
    ends = Fields(low=low, high=high)
  figures.append(_RECORDS["elicited_copies_excess"].measurement(fields, excess, ends))
  sides = elicited.distances(), others.distances()
  for name, figure_fn, least in (
    ("elicited_tpr", membership.tpr_fn(*sides), membership.MIN_FOR_TPR),
    ("elicited_auroc", membership.auroc_fn(*sides), nearness.MIN_IMAGES),
  ):
    if len(patients) < nearness.MIN_IMAGES or len(of_others) < least:
      figures.append(undefined(name, least))
    else:
      figure = statistics.estimate(figure_fn, patients, of_others)
      figures.append(_RECORDS[name].measurement(fields, figure))
  return figures


def _copies(
  elicited: Conditioned,
  own: np.ndarray,
  reference: privacy.Reference,
  fields: Fields,
  pairs: Sequence[privacy.Pair],
) -> list[Measurement]:
  """The share that copies any training image, and that of real unseen images."""
  copied = own.copy()
  copied[[pair.generated for pair in pairs if pair.kind != "own"]] = True
  record, patients = _RECORDS["elicited_copies"], elicited.generated.patients
  of_real = reference.test.patients
  count = Fields(num_real=len(reference.training))
  count["real_patients"] = reference.training.num_patients
  return [
    record.measurement(
      fields | count, statistics.linear(copied.mean(), (copied, patients))
    ),
    record.measurement(
      fields | count,
      statistics.linear(reference.copied.mean(), (reference.copied, of_real)),
      num=len(of_real),
      patients=len(np.unique(of_real)),
      of="real",
    ),
  ]
