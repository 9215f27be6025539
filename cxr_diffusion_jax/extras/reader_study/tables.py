"""The tables of a reader study: its key, and the answers of readers.

key.csv -> StudyKey; answers.csv + StudyKey -> Answers, complete and in the key's order
"""

from collections import Counter
from collections.abc import Iterable, Sequence
import dataclasses
import os
import pathlib

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.sources.nih import metadata

REAL, SYNTHETIC = VERDICTS = "real", "synthetic"
REALISM = ("1", "2", "3", "4", "5")

# Sheets and answers name NIH's findings.
VOCABULARY = metadata.FINDINGS

KEY_COLUMNS = ("image", "set", "id", "findings", "repeat_of")
ANSWER_COLUMNS = ("reader", "image", "verdict", "realism", "findings")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StudyKey:
  """The n images of a sheet, in the order of the sheet."""

  images: Sequence[str]  # names on the sheet
  sets: Sequence[str]  # `REAL` or the path that made it
  ids: Sequence[str]  # in the set
  findings: np.ndarray  # [n 14] 0 or 1, present or requested; nan unknown
  known: np.ndarray  # bool [n], whether the findings are
  repeat_of: np.ndarray  # int [n], the row shown again here, -1 for a first showing

  @property
  def paths(self) -> tuple[str, ...]:
    """The paths, sorted."""
    return tuple(sorted(set(self.sets) - {REAL}))


def read_key(path: str | os.PathLike) -> StudyKey:
  """Reads the key.csv of a study.

  Raises:
    errors.InputError: no such file, or not a key as `study.write` writes it.
  """
  path = pathlib.Path(path)
  rows = _read(path, KEY_COLUMNS)
  images = [row["image"] for row in rows]
  real = [row["set"] == REAL for row in rows]
  if all(real) or not any(real) or len(set(images)) < len(images):
    raise errors.InputError(
      f"{path} has {sum(real)} real of {len(real)} images, {len(set(images))} names",
      "real and generated images, each name once: the key.csv as it was written",
    )
  none = labels_lib.NO_FINDING
  repeat_of = np.full(len(rows), -1)
  for i, row in enumerate(rows):
    if row["repeat_of"]:
      if row["repeat_of"] not in images[:i]:
        raise errors.InputError(
          f"{path}: {row['image']} repeats {row['repeat_of']}, which is not above it",
          "the key.csv as it was written",
        )
      repeat_of[i] = images.index(row["repeat_of"])
  return StudyKey(
    images=images,
    sets=[row["set"] for row in rows],
    ids=[row["id"] for row in rows],
    findings=np.array(
      [labels_lib.parse(row["findings"] or none, VOCABULARY) for row in rows]
    ),
    known=np.array([bool(row["findings"]) for row in rows]),
    repeat_of=repeat_of,
  )


def _read(path: str | os.PathLike, columns: Sequence[str]) -> list[dict[str, str]]:
  table = csv_table.read_table(path, {name: (name,) for name in columns}, {})
  cells = zip(*(table.column(name) for name in columns), strict=True)
  return [dict(zip(columns, row, strict=True)) for row in cells]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
  """The answers of one reader for the n images of a key, in its order."""

  reader: str
  synthetic: np.ndarray  # bool [n], whether the image was judged synthetic
  realism: np.ndarray | None  # int [n], 1 to 5; None without any grade
  findings: np.ndarray | None  # uint8 [n 14], seen; None without any answer


def read_answers(path: str | os.PathLike, key: StudyKey) -> Answers:
  """Reads a reader's answers; without a name inside, the reader is named as the file.

  Raises:
    errors.InputError: no such file, images that are missing, repeated or of another
      study, an empty or invalid cell, or several readers.
  """
  path = pathlib.Path(path)
  rows = _read(path, ANSWER_COLUMNS)
  counts = Counter(row["image"] for row in rows)
  expected = f"those of the key, such as {key.images[0]}"
  _refuse(path, set(counts) - set(key.images), "are of another study", expected)
  _refuse(path, (x for x in counts if counts[x] > 1), "are there more than once")
  _refuse(path, set(key.images) - set(counts), "are missing")
  readers = sorted({row["reader"] for row in rows} - {""})
  if len(readers) > 1:
    raise errors.InputError(
      f"{path} is of {len(readers)} readers, {' and '.join(readers[:2])}",
      "a file for each reader",
    )
  by_image = {row["image"]: row for row in rows}
  rows = [by_image[name] for name in key.images]
  columns: dict[str, np.ndarray | None] = {"realism": None, "findings": None}
  for name, parse_fn, expected in (
    ("verdict", lambda text: VERDICTS.index(text.casefold()), f"{REAL} or {SYNTHETIC}"),
    ("realism", lambda text: 1 + REALISM.index(text), f"{REALISM[0]} to {REALISM[-1]}"),
    (
      "findings",
      _parse_seen,
      f"findings separated by |, or {labels_lib.NO_FINDING}",
    ),
  ):
    if name in columns and not any(row[name] for row in rows):
      continue
    missing = [row["image"] for row in rows if not row[name]]
    _refuse(path, missing, f"have no {name}", expected)
    values, wrong = [], []
    for row in rows:
      try:
        values.append(parse_fn(row[name]))
      except (ValueError, errors.InputError):
        wrong.append(f"{row['image']} ({row[name]!r})")
    _refuse(path, wrong, f"have another {name}", expected)
    columns[name] = np.array(values)
  return Answers(
    reader=readers[0] if readers else path.stem,
    synthetic=np.asarray(columns["verdict"], bool),
    realism=columns["realism"],
    findings=columns["findings"],
  )


def _refuse(
  path: pathlib.Path, images: Iterable[str], what: str, expected: str = ""
) -> None:
  images = sorted(images)
  if images:
    raise errors.InputError(
      f"{path}: {len(images)} images {what}, such as {', '.join(images[:2])}", expected
    )


def _parse_seen(text: str) -> np.ndarray:
  """A reader's findings, of which none is unknown."""
  row = labels_lib.parse(text, VOCABULARY)
  if not np.isfinite(row).all():
    raise errors.InputError(f"findings {text!r}", "findings that are seen")
  return row
