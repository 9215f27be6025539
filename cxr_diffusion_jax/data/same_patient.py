"""Pairs each image with another one of the same patient.

patient [n], in the order in which a patient's images were taken -> other row [n], or -1

A model whose condition comes from another image of the patient cannot just copy it.
"""

import numpy as np


def other_image(patient: np.ndarray) -> np.ndarray:
  """Finds for each row another row of its patient: the next one, else the one before.

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
