"""Training images and unseen real ones, prepared once for all sets that are measured.

training and test images -> hashes, thumbnails -> copies among the real ones
features -> distances of test images to their nearest training images
"""

import dataclasses
import pathlib

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation.metrics import duplicates, fidelity, neighbours

# Training images that are proposed as an image's original, by each kind of distance.
NUM_CANDIDATES = 5


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
  """Training and test images, prepared once for all sets that are measured.

  Attributes:
    training: images that were trained on.
    training_features: [m d].
    test: real images of other patients.
    test_features: [t d].
    distances: [t] of test images to their nearest training images.
    scan: of the training images.
    exact: [t] bool, test images with exactly the pixels of a training image.
    copied: [t] bool, test images that are copies of one, exact or near.
    threshold: correlation above which an image is a copy.
    judge: the network of the features, and its layer.
    standin: see `Measurement`.
  """

  training: ImageSet
  training_features: np.ndarray
  test: ImageSet
  test_features: np.ndarray
  distances: np.ndarray
  scan: duplicates.Scan
  exact: np.ndarray
  copied: np.ndarray
  threshold: float
  judge: str
  standin: bool

  @property
  def num_candidates(self) -> int:
    """Training images that are proposed by each kind of distance."""
    return min(NUM_CANDIDATES, len(self.training))


def make_reference(
  training_features: np.ndarray,
  test_features: np.ndarray,
  *,
  training: ImageSet,
  test: ImageSet,
  extractor: fidelity.Network,
  cache: pathlib.Path | None = None,
  key: str = "",
  progress: types.Progress = types.no_progress,
) -> Reference:
  """Measures how near unseen real images are to training images.

  Args:
    training_features: [m d].
    test_features: [t d], by the same extractor.
    training: the m images; with labels "patient" where known.
    test: the t images, of patients that were not trained on.
    extractor: of the features.
    cache: see `duplicates.scan`.
    key: names the training images in the cache.
    progress: called during long work.

  Raises:
    errors.InputError: no images, or of two sizes.
    ValueError: features that are not of these images.
  """
  check_features(training_features, training)
  check_features(test_features, test)
  check_sizes(training, test)
  scan = duplicates.scan(training.images, cache=cache, key=key, progress=progress)
  test_scan = duplicates.scan(test.images)
  num = min(NUM_CANDIDATES, len(training))
  distances, rows = neighbours.nearest(test_features, training_features, num)
  proposed = np.hstack([rows, by_thumbnails(test_scan, scan, num)])
  _, correlations = duplicates.likeliest(
    test.images, training.images, proposed, progress=progress
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
    judge=f"{extractor.name}, {extractor.layer}",
    standin=extractor.standin,
  )


def patients(images: ImageSet) -> np.ndarray:
  """Names [n] of patients; each image is one where they are not known."""
  if "patient" in images.labels:
    return np.asarray(images.labels["patient"]).astype(str)
  return np.array([f"{images.name}, image {row}" for row in range(len(images))])


def by_thumbnails(
  scan: duplicates.Scan, training: duplicates.Scan, num: int
) -> np.ndarray:
  """The training images [n k] with the nearest thumbnails."""
  return neighbours.nearest(scan.thumbnails, training.thumbnails, num)[1]


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
