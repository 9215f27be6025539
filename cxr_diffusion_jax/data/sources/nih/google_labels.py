"""Reads the expert labels that Google published for parts of ChestX-ray14.

google-labels/**/*.csv -> consensus of four findings, of all findings, readers' votes

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
from cxr_diffusion_jax.data.sources import base
from cxr_diffusion_jax.data.sources.nih import metadata

FOUR_FINDINGS = base.EXPERT_FINDINGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vote:
  """One reader's answers on one image: 1 yes, 0.5 hedged, 0 no, nan none.

  Attributes:
    id: the image's name without extension.
    reader: the reader's identifier, as in the file.
    values: finding -> vote.
  """

  id: str
  reader: str
  values: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoogleLabels:
  """All expert labels of a tree.

  Attributes:
    four_findings: id -> [4] float32, columns as in `FOUR_FINDINGS`; nan unknown.
    all_findings: id -> [15] float32, `metadata.FINDINGS` and then `Abnormal`.
    votes: of single readers.
    test_ids: images of any expert test set; never to be trained on by default.
  """

  four_findings: dict[str, np.ndarray]
  all_findings: dict[str, np.ndarray]
  votes: tuple[Vote, ...]
  test_ids: frozenset[str]


def read_google_labels(paths: Iterable[str | os.PathLike]) -> GoogleLabels:
  """Reads expert label files of any form.

  Args:
    paths: of CSVs; those without an image column or expert columns are refused.

  Returns:
    Their labels together. An image that only single readers labelled counts as a test
    image, unless a validation file holds it.

  Raises:
    InputError: a file of another kind, or a value that is no label.
  """
  four: dict[str, np.ndarray] = {}
  every: dict[str, np.ndarray] = {}
  votes: list[Vote] = []
  test_ids: set[str] = set()
  validation_ids: set[str] = set()
  for path in map(os.fspath, paths):
    for number, row in _rows(path):
      where = f"{path} line {number}"
      image_id = PurePath(row["image"]).stem
      is_four = "airspace opacity" in row
      names = FOUR_FINDINGS if is_four else (*metadata.FINDINGS, "Abnormal")
      if "reader id" in row:
        values = dict(zip(names, _values(where, row, names).tolist(), strict=True))
        votes.append(Vote(id=image_id, reader=row["reader id"], values=values))
        continue
      (four if is_four else every)[image_id] = _values(where, row, names)
      set_name = row.get("set id", "") or PurePath(path).name
      is_validation = "val" in set_name.casefold()
      (validation_ids if is_validation else test_ids).add(image_id)
  test_ids |= {vote.id for vote in votes} - validation_ids
  return GoogleLabels(
    four_findings=four,
    all_findings=every,
    votes=tuple(votes),
    test_ids=frozenset(test_ids),
  )


def _rows(path: str) -> list[tuple[int, dict[str, str]]]:
  """Line numbers and rows, column names in one spelling."""
  rows = base.read_csv(path)
  header = [_plain(name) for name in ",".join(rows[0] if rows else []).split(",")]
  image = {"image index", "image id"} & set(header)
  if not image or not {"airspace opacity", "abnormal"} & set(header):
    raise errors.InputError(
      f"{path} holds no expert labels",
      "a column 'Image Index' or 'Image ID', and 'Airspace opacity' or 'Abnormal'",
      "move it out of google-labels/",
    )
  header = ["image" if name in image else name for name in header]
  return [
    (number, dict(zip(header, row, strict=False)))
    for number, row in enumerate(rows[1:], start=2)
    if row
  ]


def _plain(name: str) -> str:
  """`Nodule/mass`, `Nodule or mass` and `Pleural_Thickening` in one spelling each."""
  plain = name.strip().casefold().replace("_", " ").replace("/", " or ")
  return " ".join(plain.split())


def _number(text: str) -> float:
  values = {"yes": 1.0, "1": 1.0, "no": 0.0, "0": 0.0, "hedge": 0.5, "": np.nan}
  plain = text.strip().casefold()
  if plain not in values:
    raise ValueError(text)
  return values[plain]


def _values(where: str, row: dict[str, str], names: tuple[str, ...]) -> np.ndarray:
  try:
    return np.array([_number(row.get(_plain(name), "")) for name in names], np.float32)
  except ValueError as error:
    raise errors.InputError(
      f"{where} says {error}", "YES, NO, HEDGE, 1 or 0"
    ) from error
