"""Reads the expert labels that Google published for parts of ChestX-ray14.

google-labels/**/*.csv -> consensus of four findings, and of all findings

Source: Majkowska et al., Radiology 2019 (four findings, 2,414 validation and 1,962 test
images); Nabulsi et al., Scientific Reports 2021 (all findings, 810 test images). A
file's columns, not its name, decide how it is read, so that flat copies are read too.
"""

from collections.abc import Iterable
import dataclasses
import os
from pathlib import PurePath

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table
from cxr_diffusion_jax.data.sources import base
from cxr_diffusion_jax.data.sources.nih import metadata

FOUR_FINDINGS = base.EXPERT_FINDINGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoogleLabels:
  """All expert labels of a tree.

  Attributes:
    four_findings: id -> [4] float32, columns as in `FOUR_FINDINGS`; nan unknown.
    all_findings: id -> [15] float32, `metadata.FINDINGS` and then `Abnormal`.
    test_ids: images of any expert test set; never to be trained on by default.
  """

  four_findings: dict[str, np.ndarray]
  all_findings: dict[str, np.ndarray]
  test_ids: frozenset[str]


def read_google_labels(paths: Iterable[str | os.PathLike]) -> GoogleLabels:
  """Reads expert label files of any form.

  Args:
    paths: of CSVs; those without an image column or expert columns are refused.

  Returns:
    Their labels together. An image that only single readers labelled counts as a test
    image, unless a validation file holds it.

  Raises:
    InputError: a file of another kind, a row with fewer or more cells than the header,
      or a value that is no label.
  """
  four: dict[str, np.ndarray] = {}
  every: dict[str, np.ndarray] = {}
  ids: dict[str, set[str]] = {"readers": set(), "test": set(), "validation": set()}
  for path in (os.fspath(path) for path in paths):
    for number, row in _rows(path):
      where = f"{path} line {number}"
      image_id = PurePath(row["image"]).stem
      is_four = "airspace opacity" in row
      names = FOUR_FINDINGS if is_four else (*metadata.FINDINGS, "Abnormal")
      values = _values(where, row, names)
      if "reader id" in row:
        ids["readers"].add(image_id)
        continue
      (four if is_four else every)[image_id] = values
      set_name = row.get("set id", "") or PurePath(path).name
      ids["validation" if "val" in set_name.casefold() else "test"].add(image_id)
  test_ids = frozenset(ids["test"] | (ids["readers"] - ids["validation"]))
  return GoogleLabels(four_findings=four, all_findings=every, test_ids=test_ids)


def _rows(path: str) -> list[tuple[int, dict[str, str]]]:
  """Line numbers and rows, column names in one spelling."""
  lines = csv_table.read_rows(path)
  header = [_plain(name) for name in (lines[0][1] if lines else [])]
  while header and not header[-1]:
    header.pop()
  image = {"image index", "image id"} & set(header)
  if not image or not {"airspace opacity", "abnormal"} & set(header):
    raise errors.InputError(
      f"{path} holds no expert labels",
      "a column 'Image Index' or 'Image ID', and 'Airspace opacity' or 'Abnormal'",
      "move it out of google-labels/",
    )
  header = ["image" if name in image else name for name in header]
  csv_table.check_cells(path, header, lines[1:])
  # Rows may end in commas.
  return [(number, dict(zip(header, row, strict=False))) for number, row in lines[1:]]


def _plain(name: str) -> str:
  """`Nodule/mass`, `Nodule or mass` and `Pleural_Thickening` in one spelling each."""
  plain = name.strip().casefold().replace("_", " ").replace("/", " or ")
  return " ".join(plain.split())


def _values(where: str, row: dict[str, str], names: tuple[str, ...]) -> np.ndarray:
  """The labels of a row: 1 yes, 0.5 hedged, 0 no, nan unknown."""
  values = {"yes": 1.0, "1": 1.0, "no": 0.0, "0": 0.0, "hedge": 0.5, "": np.nan}
  texts = [row.get(_plain(name), "").strip() for name in names]
  try:
    return np.array([values[text.casefold()] for text in texts], np.float32)
  except KeyError:
    wrong = next(text for text in texts if text.casefold() not in values)
    raise errors.InputError(f"{where} says {wrong}", "YES, NO, HEDGE, 1 or 0") from None
