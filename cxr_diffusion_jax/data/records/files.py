"""Image files as they were when they were read, and whether they have changed.

file -> (size, time) cheap to compare; file -> decode -> square -> hash of its pixels
"""

from collections.abc import Callable, Sequence
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
    size: [n] int64, bytes; 0 for files in a bucket, which are not compared.
    time: [n] int64, nanoseconds of the last change; a hint that no hash depends on.
    pixels: [n] uint64, hash of the square that the image becomes; `DAMAGED` for none.
  """

  size: np.ndarray
  time: np.ndarray
  pixels: np.ndarray


def stat(paths: Sequence[str], pixels: np.ndarray) -> Files:
  """Sizes and times of files, beside known hashes of their pixels.

  Raises:
    OSError: a file is gone.
  """
  status = [(0, 0) if artifacts.is_remote(path) else _stat(path) for path in paths]
  size, time = np.array(status, np.int64).reshape(-1, 2).T
  return Files(size=size, time=time, pixels=pixels)


def pixel_hash(square: np.ndarray) -> int:
  """Hash of a square [s s] uint8; never `DAMAGED`."""
  code = hashlib.blake2b(square.tobytes(), digest_size=8).digest()
  return int.from_bytes(code, "little") or 1


def refresh(
  old: Files, paths: Sequence[str], read_square: Callable[[str], np.ndarray]
) -> Files | None:
  """Compares files with what they were.

  Files of another size are decoded, and a sample of those of another time.

  Args:
    old: of n files.
    paths: where the n files are now.
    read_square: makes the square of a file; raises InputError if it cannot.

  Returns:
    Their sizes and times now; None if the pixels of one differ.
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


def _stat(path: str) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_size, status.st_mtime_ns
