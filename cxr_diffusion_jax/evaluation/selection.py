"""Chooses conditions, and the real images that generated ones are compared with.

split --by patient--> conditions: one image a patient, one generated for each
                  +-> reference: the images of all other patients

The real images of the conditions, compared with the reference, give the floor of every
distance: as many images, also of other patients. Patients are ordered by a hash of
their number, so that the first n conditions are the same for any n, path and machine.
"""

from collections.abc import Collection, Sequence
import hashlib

import numpy as np

from cxr_diffusion_jax import errors


def choose(
  ids: np.ndarray,
  patients: np.ndarray,
  *,
  usable: np.ndarray | None = None,
  num: int | None = None,
  per_patient: int = 0,
  partners: Sequence[np.ndarray] = (),
  first: Collection[str] | np.ndarray = (),
) -> tuple[np.ndarray, np.ndarray]:
  """Divides the images of a split.

  Args:
    usable: [n] bool, images that every run has a condition for; None for all.
    num: conditions; None for those of patients with half of the images.
    per_patient: conditions of one patient at most, chosen by a hash of the id; 0 for
      all of its images.
    partners: rows [n] of the images that conditions are made from, -1 for none, for
      each run: their patients are not in the reference either.
    first: patients that conditions are taken of before others.

  Returns:
    Rows [c] of the conditions, patient after patient, and rows [r] of the reference, in
    the order of the split.

  Raises:
    errors.InputError: fewer conditions than `num`, or no other patient left.
  """
  usable = np.ones(len(ids), bool) if usable is None else usable
  half = max(1, len(ids) // 2)
  wanted = half if num is None else num
  conditions: list[int] = []
  chosen = np.zeros(len(ids), bool)
  early = set(first)
  for patient in sorted(
    set(patients.tolist()), key=lambda name: (name not in early, _order(name))
  ):
    if len(conditions) >= wanted or (num is None and chosen.sum() >= half):
      break
    rows = np.flatnonzero(patients == patient)
    own = rows[usable[rows]].tolist()
    if not own:
      continue
    chosen[rows] = True
    if per_patient:
      own = sorted(sorted(own, key=lambda row: _order(ids[row]))[:per_patient])
    conditions += own
    for partner in partners:
      of_rows = partner[own]
      chosen |= np.isin(patients, patients[of_rows[of_rows >= 0]])
  reference = np.flatnonzero(~chosen)
  if num is not None and len(conditions) < num:
    raise _too_few(num, len(conditions), per_patient)
  if not len(reference):
    raise errors.InputError(
      f"{wanted} conditions of {len(ids)} images, which leave no other patient's image",
      "images to compare with",
      f"ask for fewer, such as --num {max(1, len(ids) // 2)}",
    )
  return np.array(conditions[:wanted], np.int64), reference


def _too_few(num: int, most: int, per_patient: int) -> errors.InputError:
  expected = f"at most {most}, the images that have a condition"
  if not per_patient:
    return errors.InputError(f"--num {num}", expected)
  return errors.InputError(
    f"--num {num}",
    f"{expected}, {per_patient} a patient",
    "ask for fewer, or for all images of a patient with --per_patient=0",
  )


def sample_patients(
  ids: np.ndarray, patients: np.ndarray, usable: np.ndarray, num: int
) -> np.ndarray:
  """[n] rows, one usable image of each of up to `num` patients, both by a hash."""
  rows = np.flatnonzero(usable)
  by_image = sorted(rows.tolist(), key=lambda row: _order(ids[row]))
  first = {patients[row]: row for row in reversed(by_image)}
  chosen = sorted(first, key=_order)[:num]
  return np.array([first[patient] for patient in chosen], np.int64)


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


def _order(name: object) -> bytes:
  return hashlib.sha256(str(name).encode()).digest()
