"""Assigns every image to train, validation, test or expert, whole patients at a time.

official lists, or a hash of the patient -> train_val | test
train_val: patients with an expert test image -> expert; a hashed fraction -> validation

Expert labels are for evaluation only, so their patients are kept out of training unless
the user asks otherwise. A hash, rather than a shuffle, keeps a patient in its split
when images are added.
"""

from collections.abc import Collection
import hashlib
import os
from pathlib import Path

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.sources.nih import metadata

SPLITS = ("train", "validation", "test", "expert")

# Share of patients in test where no official lists are: that of NIH's own, roughly.
TEST_FRACTION = 0.2


def assign_splits(
  entries: metadata.Entries,
  *,
  official: tuple[Collection[str], Collection[str]] | None,
  expert_ids: Collection[str] = frozenset(),
  validation_fraction: float = 0.05,
  train_on_expert: bool = False,
) -> np.ndarray:
  """Chooses the split of every row.

  Args:
    entries: the n rows.
    official: names of train_val and of test images (without extension), None to split
      by a hash of the patient.
    expert_ids: images of expert test sets; their patients, where not in test, go to
      `expert`.
    validation_fraction: share of the remaining train_val patients in `validation`, in
      [0, 1); at least one patient where it is above 0.
    train_on_expert: leave the expert images' patients in train_val.

  Returns:
    [n] str of `SPLITS`.

  Raises:
    InputError: a row in neither list, or a patient in both.
  """
  if not 0 <= validation_fraction < 1:
    raise errors.InputError(
      f"config.data.validation_fraction={validation_fraction}", "a number in [0, 1)"
    )
  if official is None:
    is_test = _hashed(entries.patient, "test", TEST_FRACTION)
  else:
    is_test = _listed(entries, *official)
  expert = np.isin(entries.id, np.array(sorted(expert_ids), np.str_))
  of_expert = np.isin(entries.patient, entries.patient[expert])
  is_expert = of_expert & ~is_test & (not train_on_expert)
  rest = ~is_test & ~is_expert
  is_validation = np.zeros(len(entries), bool)
  is_validation[rest] = _hashed(
    entries.patient[rest], "validation", validation_fraction
  )
  return np.select(
    [is_test, is_expert, is_validation], ["test", "expert", "validation"], "train"
  )


def read_list(path: str | os.PathLike) -> frozenset[str]:
  """Reads an official list.

  Args:
    path: of a text file, one image name a line.

  Returns:
    The names without extension.

  Raises:
    InputError: the list is empty.
  """
  with Path(path).open(encoding="utf-8-sig") as file:
    names = frozenset(Path(line.strip()).stem for line in file if line.strip())
  if not names:
    raise errors.InputError(f"{path} is empty", "one image name a line")
  return names


def _listed(
  entries: metadata.Entries, train_val: Collection[str], test: Collection[str]
) -> np.ndarray:
  in_train_val = np.isin(entries.id, np.array(sorted(train_val), np.str_))
  in_test = np.isin(entries.id, np.array(sorted(test), np.str_))
  neither = ~(in_train_val | in_test)
  if neither.any():
    raise errors.InputError(
      f"{neither.sum()} images are in neither train_val_list.txt nor test_list.txt, "
      f"first {', '.join(entries.id[neither][:3])}",
      "lists that name every row of the Data_Entry CSV",
      "--config.data.split=hash splits by patient without the lists",
    )
  both = np.intersect1d(entries.patient[in_train_val], entries.patient[in_test])
  if both.size:
    raise errors.InputError(
      f"{both.size} patients are in train_val_list.txt and in test_list.txt, "
      f"first {', '.join(map(str, both[:3]))}",
      "no patient in two splits",
      "--config.data.split=hash splits by patient without the lists",
    )
  return in_test


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
