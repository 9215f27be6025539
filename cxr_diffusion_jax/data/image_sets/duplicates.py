"""Generated images that are copies of training images, at any brightness.

images, one at a time -> `scan`: a hash of the pixels, and a thumbnail
exact: the same hash
near:  the nearest by features and the nearest by thumbnails -> the pair's correlation,
       at its best shift -> above `threshold`, which real unseen images calibrate

Features alone would miss copies that are brighter than the original, or call two images
of the same build copies; so they only propose, and pixels decide.
"""

import dataclasses
import hashlib
import pathlib

import numpy as np
from PIL import Image
import scipy.ndimage

from cxr_diffusion_jax import artifacts, types

# Pixels of a side: of the thumbnails that propose, of the pictures that decide.
THUMBNAIL, SIDE = 16, 64

# A copy correlates more than nearly all of 10^4 pairs of unseen images would; LOWEST
# and HIGHEST limit the threshold.
DEVIATIONS, LOWEST, HIGHEST = 4.0, 0.8, 0.95

# Images for the spread of correlations to be known.
MIN_IMAGES = 20

# Images that are read at once.
_CHUNK, _BATCH = 4096, 256


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
  """Hashes and thumbnails of n images, to find copies among them.

  Attributes:
    digests: uint8 [n 32], SHA-256 of shape and pixels.
    thumbnails: float32 [n 256], without their mean and of length 1: the same for an
      image that is brighter or of more contrast. Zero for an image of one value.
  """

  digests: np.ndarray
  thumbnails: np.ndarray


def scan(
  images: types.Arrays,
  *,
  cache: pathlib.Path | None = None,
  key: str = "",
  progress: types.Progress = types.no_progress,
) -> Scan:
  """Reads images once, one at a time."""
  digests = [np.zeros((0, 32), np.uint8)]
  thumbnails = [np.zeros((0, THUMBNAIL**2), np.float32)]
  for first in range(0, len(images), _CHUNK):
    last = min(first + _CHUNK, len(images))
    path = _chunk_path(cache, key, images, first, last) if cache else None
    if path and path.exists():
      with np.load(path) as saved:
        part = saved["digests"], saved["thumbnails"]
    else:
      part = _scanned([images[row] for row in range(first, last)])
      if path:
        artifacts.write_npz(path, {"digests": part[0], "thumbnails": part[1]})
    digests.append(part[0])
    thumbnails.append(part[1])
    progress("looking for copies", last, len(images))
  return Scan(digests=np.concatenate(digests), thumbnails=np.concatenate(thumbnails))


def exact(generated: Scan, training: Scan) -> list[tuple[int, int]]:
  """Pairs (generated row, training row) of the same pixels, in order."""
  rows: dict[bytes, list[int]] = {}
  for row, digest in enumerate(generated.digests):
    rows.setdefault(digest.tobytes(), []).append(row)
  pairs = [
    (row, other)
    for other, digest in enumerate(training.digests)
    for row in rows.get(digest.tobytes(), ())
  ]
  return sorted(pairs)


def likeliest(
  images: types.Arrays,
  training_images: types.Arrays,
  candidates: np.ndarray,
  *,
  progress: types.Progress = types.no_progress,
) -> tuple[np.ndarray, np.ndarray]:
  """Of each image's candidates [n k] the one that it correlates with most.

  The correlation is 1 for a copy at any brightness. Images are reduced to 64 pixels a
  side, and what is smooth over a sixteenth of the side is removed, since all chests
  share it. It is the greatest of Pearson's correlations at shifts of up to a
  thirty-second of the side; 0 for an image of one value.

  Returns:
    Rows of training images [n], and the correlations [n] in [-1, 1].
  """
  rows, values = np.zeros(len(images), np.int64), np.full(len(images), -1.0)
  for first in range(0, len(images), _BATCH):
    last = min(first + _BATCH, len(images))
    # Many images propose the same original: reduce each once a batch.
    originals, places = np.unique(candidates[first:last], return_inverse=True)
    of_originals = _details([training_images[row] for row in originals])
    pictures = _details([images[row] for row in range(first, last)])
    places = places.reshape(last - first, -1)
    for row, picture, proposed in zip(
      range(first, last), pictures, places, strict=True
    ):
      proposed = np.unique(proposed)
      matches = [_best_correlation(picture, of_originals[x]) for x in proposed]
      best = int(np.argmax(matches))
      rows[row], values[row] = originals[proposed[best]], matches[best]
    progress("comparing with likely originals", last, len(images))
  return rows, values


def threshold(correlations: np.ndarray) -> float:
  """The correlation above which an image is a copy.

  Four standard deviations above the median of unseen images in Fisher's z, where
  correlations are near normal; the deviation is the median's (x 1.4826), robust
  against copies in real collections. Within [0.8, 0.95], and 0.95 for fewer than 20
  images.
  """
  if len(correlations) < MIN_IMAGES:
    return HIGHEST
  z = np.arctanh(np.clip(correlations, -0.9999, 0.9999))
  spread = 1.4826 * np.median(np.abs(z - np.median(z)))
  chosen = np.tanh(np.median(z) + DEVIATIONS * spread)
  return float(np.clip(chosen, LOWEST, HIGHEST))


def _chunk_path(
  cache: pathlib.Path, key: str, images: types.Arrays, first: int, last: int
) -> pathlib.Path:
  """Where a chunk is kept; two of its images are part of the name."""
  ends = b"".join(_digest(images[row]) for row in (first, last - 1))
  mark = hashlib.sha256(ends).hexdigest()[:12]
  return cache / f"scan-{key}-{first}-{last}-{mark}.npz"


def _digest(image: np.ndarray) -> bytes:
  pixels = repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()
  return hashlib.sha256(pixels).digest()


def _scanned(images: types.Arrays) -> tuple[np.ndarray, np.ndarray]:
  digests = [_digest(image) for image in images]
  thumbnails = np.stack([_reduced(x, THUMBNAIL).ravel() for x in images])
  thumbnails -= thumbnails.mean(axis=1, keepdims=True)
  length = np.linalg.norm(thumbnails, axis=1, keepdims=True)
  # Rounding leaves an image of one value a length of 1e-5.
  thumbnails = np.where(length > 1e-2, thumbnails / np.maximum(length, 1e-2), 0)
  rows = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
  return rows, thumbnails.astype(np.float32)


def _reduced(image: np.ndarray, side: int) -> np.ndarray:
  """uint8 [h w 1] -> float32 [side side], means of the pixels of each place."""
  picture = Image.fromarray(image[..., 0].astype(np.float32))
  return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def _details(images: types.Arrays) -> np.ndarray:
  """Images without their smooth part: [n s s], s at most 64."""
  side = min(SIDE, *images[0].shape[:2])
  reduced = np.stack([_reduced(image, side) for image in images])
  smooth = (0, side / 16, side / 16)
  return reduced - scipy.ndimage.gaussian_filter(reduced, smooth)


def _best_correlation(x: np.ndarray, y: np.ndarray) -> float:
  """Greatest correlation of the middle of x with any part of y of its size."""
  reach = max(1, len(x) // 32)
  inner = len(x) - 2 * reach
  middle = x[reach : reach + inner, reach : reach + inner].ravel()
  middle = middle - middle.mean()
  parts = np.lib.stride_tricks.sliding_window_view(y, (inner, inner))
  parts = parts.reshape(-1, inner * inner)
  parts = parts - parts.mean(axis=1, keepdims=True)
  lengths = np.linalg.norm(parts, axis=1) * np.linalg.norm(middle)
  # A grey level of noise on an image of one value is no detail.
  known = lengths > 1e-3 * inner**2
  return float(np.where(known, parts @ middle / np.maximum(lengths, 1e-9), 0).max())
