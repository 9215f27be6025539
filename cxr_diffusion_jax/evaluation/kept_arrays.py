"""Arrays that take long to make, kept in files that are there whole or not at all.

load_or_make(path, make) -> the file's array, else make() -> path
"""

from collections.abc import Callable
import os
import pathlib

import numpy as np


def load_or_make(
  path: pathlib.Path | None, make: Callable[[], np.ndarray]
) -> np.ndarray:
  """Returns what `make` returns, from the file where an earlier run has kept it.

  Args:
    path: of an .npy file, named by all that its values depend on; None to keep nothing.
    make: the long work.
  """
  if path is not None and path.is_file():
    return np.load(path, allow_pickle=False)
  values = make()
  if path is not None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
      np.save(file, values, allow_pickle=False)
    os.replace(partial, path)
  return values
