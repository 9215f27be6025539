"""Means and deviations of training images and their Haar bands, and strongest modes.

uint8 -> x = v / 127.5 - 1 -> mean, std; L levels of Haar -> [h/2^L w/2^L 4^L] -> bands
standardised bands -> variances along the first principal components

Orthonormal 2-D Haar, every level on all bands: a block [a b; c d] becomes
(a+b+c+d)/2, (a-b+c-d)/2, (a+b-c-d)/2, (a-b-c+d)/2, in that order of bands, and channel
c of C becomes channel band * C + c.
"""

from collections.abc import Iterable, Iterator

import numpy as np

MAX_LEVELS = 3

# Number of variances of modes.
NUM_MODES = 8

# Rows of pixels whose Haar bands are in memory at once; a multiple of 2^MAX_LEVELS.
_STRIP = 32


def image_statistics(images: Iterable[np.ndarray]) -> dict:
  """Statistics of images in [-1, 1].

  Args:
    images: [h w 1] uint8 each, all of one size; at least one.

  Returns:
    `{"mean": float, "std": float, "num_images": int, "haar": {"1": {"mean": [4],
    "std": [4]}, "2": ...}, "modes": {"0": [8], "1": [8], ...}}`, plain lists; levels 1
    to 3 as far as the size divides. `modes` are the largest variances along principal
    components, falling: of the image itself (0), of L levels of standardised bands.
  """
  images = list(images)
  moments: dict[int, np.ndarray] = {}
  count = 0
  for image in images:
    count += 1
    x = image.astype(np.float64) / 127.5 - 1
    for level in range(MAX_LEVELS + 1):
      if level:
        if x.shape[0] % 2 or x.shape[1] % 2:
          break
        x = haar(x)
      sums = np.stack([x.mean(axis=(0, 1)), np.square(x).mean(axis=(0, 1))])
      moments[level] = moments.get(level, 0) + sums
  if not count:
    raise ValueError("statistics of no images")
  described = {level: _mean_and_std(sums / count) for level, sums in moments.items()}
  return {
    "mean": described[0]["mean"][0],
    "std": described[0]["std"][0],
    "num_images": count,
    "haar": {str(level): value for level, value in described.items() if level},
    "modes": {
      str(level): mode_variances(_strips(images, level, np.array(about["std"])))
      for level, about in described.items()
    },
  }


def mode_variances(parts: Iterable[np.ndarray]) -> list[float]:
  """The largest variances of a sample along its principal components.

  Args:
    parts: [n d] of the same n rows each: blocks of columns, which fit in memory.

  Returns:
    At most 8 variances, falling; fewer from fewer rows. The sample's own: with few rows
    they are a little above the population's.
  """
  gram = np.zeros(())
  for part in parts:
    centred = (part - part.mean(axis=0)).astype(np.float32)
    gram = gram + (centred @ centred.T).astype(np.float64)
  values = np.linalg.eigvalsh(gram)[::-1] / len(gram)
  return np.maximum(values[:NUM_MODES], 0).tolist()


def _strips(
  images: list[np.ndarray], level: int, std: np.ndarray
) -> Iterator[np.ndarray]:
  """Yields the bands of a strip of all images, [n d], each over its std."""
  scale = np.where(std > 0, std, 1.0).astype(np.float32) if level else 1.0
  for top in range(0, len(images[0]), _STRIP):
    x = np.stack([image[top : top + _STRIP] for image in images])
    x = x.astype(np.float32) / 127.5 - 1
    for _ in range(level):
      x = haar(x)
    yield (x / scale).reshape(len(x), -1)


def haar(x: np.ndarray) -> np.ndarray:
  """One level of the Haar transform, as in the module's docstring.

  Args:
    x: [... h w c], h and w even.

  Returns:
    [... h/2 w/2 4c].
  """
  a, b = x[..., 0::2, 0::2, :], x[..., 0::2, 1::2, :]
  c, d = x[..., 1::2, 0::2, :], x[..., 1::2, 1::2, :]
  bands = [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]
  return np.concatenate(bands, axis=-1) / 2


def _mean_and_std(moments: np.ndarray) -> dict[str, list[float]]:
  mean, square = moments
  variance = np.maximum(square - mean**2, 0)
  return {"mean": mean.tolist(), "std": np.sqrt(variance).tolist()}
