"""Which other image a row's condition is made from.

same patient    patient [n] --> the next image of it, else the one before
same findings   labels [n k], patient [n] --> an image of the next patient that has them
"""

import numpy as np


def other_image(patient: np.ndarray) -> np.ndarray:
  """Finds for each row another row of its patient: the next one, else the one before.

  A model whose condition comes from another image of the patient cannot just copy it.

  Args:
    patient: [n] int; rows of one patient are in the order of their images.

  Returns:
    [n] int32 rows, -1 where a patient has one image only.
  """
  order = np.argsort(patient, kind="stable")
  sorted_patient = patient[order]
  same = sorted_patient[1:] == sorted_patient[:-1]
  partner = np.full(len(patient), -1, np.int32)
  partner[order[1:][same]] = order[:-1][same]
  # Last, so that the next image goes before the one before.
  partner[order[:-1][same]] = order[1:][same]
  return partner


def other_patient(shared: np.ndarray, patient: np.ndarray) -> np.ndarray:
  """Finds for each row a row of the next patient with the same labels.

  Args:
    shared: [n k] labels that both rows have, such as findings, sex and view; nan, for
      unknown, is shared with nan alone.
    patient: [n] int.

  Returns:
    [n] int32 rows, -1 where no other patient has the same labels. Images of one patient
    get different images of the next one, as far as it has them.
  """
  if not len(patient):
    return np.zeros(0, np.int32)
  # Rows with nan differ from all others in numpy's comparison of rows.
  known = np.nan_to_num(np.asarray(shared, np.float64), nan=-2.0)
  _, group = np.unique(known, axis=0, return_inverse=True)
  group = group.reshape(-1)
  order = np.lexsort((np.arange(len(patient)), patient, group))
  keys = np.stack([group[order], patient[order]], axis=1)
  new = np.any(np.diff(keys, axis=0, prepend=-1) != 0, axis=1)
  new[0] = True
  # Runs: the images of one patient with these labels, one after the other.
  starts = np.flatnonzero(new)
  lengths = np.diff(starts, append=len(order))
  of_run = keys[starts, 0]
  first = np.searchsorted(of_run, of_run)
  following = np.arange(1, len(starts) + 1)
  wraps = np.append(of_run[1:] != of_run[:-1], True)
  following = np.where(wraps, first, following)
  run = np.cumsum(new) - 1
  place = np.arange(len(order)) - starts[run]
  chosen = order[starts[following[run]] + place % lengths[following[run]]]
  partner = np.full(len(patient), -1, np.int32)
  partner[order] = np.where(following[run] == run, -1, chosen)
  return partner
