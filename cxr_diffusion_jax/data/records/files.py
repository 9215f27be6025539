"""What records know of the image files that they were made from.

path --stat--> size, time; square --pixel_hash--> which images are still the same
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import hashlib
import os

import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data import images

# The pixel hash of a file that cannot be read.
DAMAGED = 0

# Files of a new time but the old size that are read again. A copied tree has new times
# everywhere; a tree of other images shows among this many.
MAX_SAMPLED = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Files:
  """n image files.

  Attributes:
    size: [n] int64, bytes; 0 for files in a bucket, which are not compared, and for
      links to nothing and other files that cannot be reached.
    time: [n] int64, nanoseconds of the last change; a hint that no hash depends on.
    pixels: [n] uint64, hash of the square that the image becomes; `DAMAGED` for none.
  """

  size: np.ndarray
  time: np.ndarray
  pixels: np.ndarray


def stat(paths: Sequence[str], pixels: np.ndarray) -> Files:
  """Sizes and times of files, beside known hashes of their pixels."""
  sizes = np.zeros((len(paths), 2), np.int64)
  for row, path in enumerate(paths):
    if not artifacts.is_remote(path):
      # Reading the image names a file that is gone.
      with contextlib.suppress(OSError):
        status = os.stat(path)
        sizes[row] = status.st_size, status.st_mtime_ns
  size, time = sizes.T
  return Files(size=size, time=time, pixels=pixels)


def pixel_hash(square: np.ndarray) -> int:
  """Hash of a square [s s] uint8; never `DAMAGED`."""
  code = hashlib.blake2b(square.tobytes(), digest_size=8).digest()
  return int.from_bytes(code, "little") or 1


def refresh(
  old: Files, paths: Sequence[str], read_square: Callable[[str], np.ndarray]
) -> Files | None:
  """Sizes and times of files that are now at `paths`; None if the pixels of one differ.

  Files of another size are decoded, and a sample of those of another time.
  """
  new = stat(paths, old.pixels)
  suspects = np.flatnonzero(new.size != old.size)
  touched = np.flatnonzero((new.size == old.size) & (new.time != old.time))
  sample = np.linspace(0, len(touched) - 1, min(len(touched), MAX_SAMPLED))
  suspects = np.concatenate([suspects, touched[np.unique(sample.round().astype(int))]])

  def is_same(row: int) -> bool:
    try:
      return pixel_hash(read_square(paths[row])) == old.pixels[row]
    except errors.InputError:
      return old.pixels[row] == DAMAGED

  return new if all(images.in_threads(is_same, suspects.tolist())) else None
