"""Assigns every image to train, validation, test or expert, whole patients at a time.

official split, or a hash of the patient -> train_val | test
train_val: patients with an expert test image -> expert; the official validation set,
  or a hashed fraction of the patients -> validation

Expert labels are for evaluation only, so their patients are kept out of training unless
the user asks otherwise. A hash, rather than a shuffle, keeps a patient in its split
when images are added.
"""

from collections.abc import Collection
import hashlib

import numpy as np

from cxr_diffusion_jax import errors

SPLITS = ("train", "validation", "test", "expert")

# Share of patients in test where no official lists are: that of NIH's own, roughly.
TEST_FRACTION = 0.2


def assign_splits(
  ids: np.ndarray,
  patients: np.ndarray,
  *,
  official: np.ndarray | None,
  expert_ids: Collection[str] = frozenset(),
  validation_fraction: float = 0.05,
  train_on_expert: bool = False,
) -> np.ndarray:
  """Chooses the split of every row: [n] str of `SPLITS`.

  Args:
    official: [n] str, `train`, `validation`, `test`, or `` for rows that the published
      split does not name; None to split by a hash of the patient.
    expert_ids: images of expert test sets; their patients, where not in test, go to
      `expert`.
    validation_fraction: share of the remaining train_val patients in `validation`, in
      [0, 1); at least one patient where it is above 0. Ignored where the published
      split has validation rows.
    train_on_expert: leave the expert images' patients in train_val.

  Raises:
    InputError: a row in no official part, or a patient in two.
  """
  if not 0 <= validation_fraction < 1:
    raise errors.InputError(
      f"config.data.validation_fraction={validation_fraction}", "a number in [0, 1)"
    )
  if official is None:
    is_test = hashed_test(patients)
  else:
    _check_official(ids, patients, official)
    is_test = official == "test"
  expert = np.isin(ids, np.array(sorted(expert_ids), np.str_))
  of_expert = np.isin(patients, patients[expert])
  is_expert = of_expert & ~is_test & (not train_on_expert)
  rest = ~is_test & ~is_expert
  if official is not None and (official == "validation").any():
    is_validation = rest & (official == "validation")
  else:
    is_validation = np.zeros(len(ids), bool)
    is_validation[rest] = hashed_validation(patients[rest], validation_fraction)
  return np.select(
    [is_test, is_expert, is_validation], ["test", "expert", "validation"], "train"
  )


def hashed_test(patients: np.ndarray) -> np.ndarray:
  """[n] bool, the rows of the patients that a hash puts into `test`."""
  return _hashed(patients, "test", TEST_FRACTION)


def hashed_validation(patients: np.ndarray, fraction: float) -> np.ndarray:
  """[n] bool, the rows of the share of patients that a hash puts into `validation`."""
  return _hashed(patients, "validation", fraction)


def _check_official(
  ids: np.ndarray, patients: np.ndarray, official: np.ndarray
) -> None:
  fix = "--config.data.split=hash splits by patient without the published split"
  neither = official == ""
  if neither.any():
    raise errors.InputError(
      f"the published split does not name {neither.sum()} of {len(ids)} images, "
      f"first {', '.join(ids[neither][:3])}",
      "lists, or a column, that name every image",
      fix,
    )
  pairs = np.unique(np.stack([patients, _codes(official)]), axis=1)
  unique, counts = np.unique(pairs[0], return_counts=True)
  several = unique[counts > 1]
  if several.size:
    raise errors.InputError(
      f"{several.size} patients are in two parts of the published split, "
      f"first {', '.join(map(str, several[:3]))}",
      "no patient in two splits",
      fix,
    )


def _codes(official: np.ndarray) -> np.ndarray:
  """[n] int, a number for each part."""
  return np.unique(official, return_inverse=True)[1]


def _hashed(patients: np.ndarray, salt: str, fraction: float) -> np.ndarray:
  """True for the rows of about `fraction` of the patients, always the same ones."""
  unique, inverse = np.unique(patients, return_inverse=True)
  if fraction <= 0 or unique.size < 2:
    return np.zeros(len(patients), bool)
  place = np.array([_place(int(patient), salt) for patient in unique])
  chosen = place < fraction
  # A small tree still gets a patient, so that validation always has something to show.
  chosen[place.argmin()] = True
  return chosen[inverse]


def _place(patient: int, salt: str) -> float:
  digest = hashlib.blake2b(f"{salt}/{patient}".encode(), digest_size=8).digest()
  return int.from_bytes(digest, "big") / 2**64
