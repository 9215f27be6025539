"""Chooses conditions, and the real images that generated ones are compared with.

split --by patient--> conditions: n images, one generated for each
                  +-> reference: the images of all other patients

The real images of the conditions, compared with the reference, give the floor of every
distance: as many images, also of other patients. Patients are ordered by a hash of
their number, so that the first n conditions are the same for any n, path and machine.
"""

from collections.abc import Sequence
import hashlib

import numpy as np

from cxr_diffusion_jax import errors


def choose(
  ids: np.ndarray,
  patients: np.ndarray,
  *,
  usable: np.ndarray | None = None,
  num: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Divides the images of a split.

  Args:
    usable: [n] bool, images that every run has a condition for; None for all.
    num: conditions; None for half of the images.

  Returns:
    Rows [c] of the conditions, patient after patient, and rows [r] of the reference, in
    the order of the split.

  Raises:
    errors.InputError: fewer conditions than `num`, or no other patient left.
  """
  usable = np.ones(len(ids), bool) if usable is None else usable
  wanted = max(1, len(ids) // 2) if num is None else num
  conditions: list[int] = []
  chosen = np.zeros(len(ids), bool)
  for patient in sorted(set(patients.tolist()), key=_order):
    if len(conditions) >= wanted:
      break
    rows = np.flatnonzero(patients == patient)
    if not usable[rows].any():
      continue
    chosen[rows] = True
    conditions += rows[usable[rows]].tolist()
  reference = np.flatnonzero(~chosen)
  if num is not None and len(conditions) < num:
    raise errors.InputError(
      f"--num {num}", f"at most {len(conditions)}, the images that have a condition"
    )
  if not len(reference):
    raise errors.InputError(
      f"{wanted} conditions of {len(ids)} images, which leave no other patient's image",
      "images to compare with",
      f"ask for fewer, such as --num {max(1, len(ids) // 2)}",
    )
  return np.array(conditions[:wanted], np.int64), reference


def common(usable: Sequence[np.ndarray]) -> np.ndarray:
  """[n] bool, images that all runs have a condition for.

  Raises:
    errors.InputError: there are none.
  """
  everywhere = np.logical_and.reduce(list(usable))
  if not everywhere.any():
    raise errors.InputError(
      "no image of the split has a condition in every run", fix="another --split"
    )
  return everywhere


def _order(patient: int) -> bytes:
  return hashlib.sha256(str(patient).encode()).digest()
