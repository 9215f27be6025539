"""Which images are asked for again, and which they are compared with.

split --by patient--> conditions: n images, one generated for each
                  +-> reference: the images of all other patients

Real images of the conditions against the reference are the floor of every distance:
n images as well, of other patients too. Patients come in the order of a hash of their
number, so that the first n conditions are the same however many are taken, in every
path and on every machine.
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
  """Parts the images of a split.

  Args:
    ids: [n] str.
    patients: [n] int.
    usable: [n] bool, images that every run has a condition for; None for all.
    num: conditions to take; None for half of the images.

  Returns:
    Rows [c] of the conditions, patient after patient, and rows [r] of the reference, in
    the order of the split.

  Raises:
    errors.InputError: fewer conditions than asked for, or no other patient left.
  """
  usable = np.ones(len(ids), bool) if usable is None else usable
  wanted = max(1, len(ids) // 2) if num is None else num
  taken: list[int] = []
  chosen = np.zeros(len(ids), bool)
  for patient in sorted(set(patients.tolist()), key=_order):
    if len(taken) >= wanted:
      break
    rows = np.flatnonzero(patients == patient)
    if not usable[rows].any():
      continue
    chosen[rows] = True
    taken += rows[usable[rows]].tolist()
  reference = np.flatnonzero(~chosen)
  if num is not None and len(taken) < num:
    raise errors.InputError(
      f"--num {num}", f"at most {len(taken)}, the images that have a condition"
    )
  if not len(reference):
    raise errors.InputError(
      f"{wanted} conditions of {len(ids)} images, which leave no other patient's image",
      "images to compare with",
      f"ask for fewer, such as --num {max(1, len(ids) // 2)}",
    )
  return np.array(taken[:wanted], np.int64), reference


def common(usable: Sequence[np.ndarray]) -> np.ndarray:
  """[n] bool, where all runs have a condition.

  Raises:
    errors.InputError: nowhere.
  """
  everywhere = np.logical_and.reduce(list(usable))
  if not everywhere.any():
    raise errors.InputError(
      "no image of the split has a condition in every run", fix="name another --split"
    )
  return everywhere


def _order(patient: int) -> bytes:
  return hashlib.sha256(str(patient).encode()).digest()
