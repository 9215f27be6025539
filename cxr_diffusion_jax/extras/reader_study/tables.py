"""The tables of a reader study: its key, and the answers of readers.

key.csv -> StudyKey; answers.csv + StudyKey -> Answers, complete and in the key's order
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
import csv
import dataclasses
import os
import pathlib

import numpy as np

from cxr_diffusion_jax import errors
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
  """The n images of a sheet, in the order of the sheet.

  Attributes:
    images: [n] names on the sheet.
    sets: [n] `REAL` or the path that made it.
    ids: [n] the image's own id in its set.
    findings: uint8 [n 14], present or requested.
    known: bool [n], whether the findings are known.
    repeat_of: int [n], the row that is shown again here, -1 for a first showing.
  """

  images: Sequence[str]
  sets: Sequence[str]
  ids: Sequence[str]
  findings: np.ndarray
  known: np.ndarray
  repeat_of: np.ndarray

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
  rows = read_csv(path, KEY_COLUMNS)
  images = [row["image"] for row in rows]
  real = [row["set"] == REAL for row in rows]
  if all(real) or not any(real) or len(set(images)) < len(images):
    raise errors.InputError(
      f"{path} has {sum(real)} real of {len(real)} images, {len(set(images))} names",
      "real and generated images, each name once: the key.csv as it was written",
    )
  findings = np.zeros((len(rows), len(VOCABULARY)), np.uint8)
  repeat_of = np.full(len(rows), -1)
  for i, row in enumerate(rows):
    if row["findings"]:
      findings[i] = labels_lib.parse(row["findings"], VOCABULARY)
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
    findings=findings,
    known=np.array([bool(row["findings"]) for row in rows]),
    repeat_of=repeat_of,
  )


def read_csv(path: pathlib.Path, columns: Sequence[str]) -> list[dict[str, str]]:
  """Reads a table that has these columns, cells without blanks around them.

  Raises:
    errors.InputError: no such file, no CSV, a column or all rows missing.
  """
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      # Cells beyond the last column get the name "", missing cells the value "".
      table = list(csv.DictReader(file, restkey="", restval=""))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise errors.InputError(f"cannot read {path}: {error}", "a CSV in UTF-8") from error
  if not table:
    raise errors.InputError(f"{path} has no rows", f"the columns {', '.join(columns)}")
  missing = [name for name in columns if name not in table[0]]
  if missing:
    raise errors.InputError(
      f"{path} lacks the column {', '.join(missing)}", f"{', '.join(columns)}"
    )
  return [{name: row[name].strip() for name in columns} for row in table]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
  """The answers of one reader for the n images of a key, in its order.

  Attributes:
    reader: name.
    synthetic: bool [n], whether the image was judged synthetic.
    realism: int [n], 1 to 5; None where the reader rated no image at all.
    findings: uint8 [n 14], seen; None where the reader left the column empty.
  """

  reader: str
  synthetic: np.ndarray
  realism: np.ndarray | None
  findings: np.ndarray | None


def read_answers(path: str | os.PathLike, key: StudyKey) -> Answers:
  """Reads a reader's answers; without a name inside, the reader is named as the file.

  Raises:
    errors.InputError: no such file, images that are missing, repeated or of another
      study, an empty or invalid cell, or several readers.
  """
  path = pathlib.Path(path)
  rows = read_csv(path, ANSWER_COLUMNS)
  counts = Counter(row["image"] for row in rows)
  _refuse(
    path,
    set(counts) - set(key.images),
    "are of another study",
    f"those of the key, such as {key.images[0]}",
  )
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

  def column(
    name: str, parse_fn: Callable[[str], object], expected: str
  ) -> np.ndarray | None:
    if not any(row[name] for row in rows):
      return None
    return _column(path, rows, name, parse_fn, expected)

  return Answers(
    reader=readers[0] if readers else path.stem,
    synthetic=_column(path, rows, "verdict", _is_synthetic, f"{REAL} or {SYNTHETIC}"),
    realism=column("realism", _realism, " to ".join((REALISM[0], REALISM[-1]))),
    findings=column(
      "findings",
      lambda text: labels_lib.parse(text, VOCABULARY),
      f"findings separated by |, or {labels_lib.NO_FINDING}",
    ),
  )


def _column(
  path: pathlib.Path,
  rows: Sequence[dict[str, str]],
  name: str,
  parse_fn: Callable[[str], object],
  expected: str,
) -> np.ndarray:
  _refuse(path, [x["image"] for x in rows if not x[name]], f"have no {name}", expected)
  values, wrong = [], []
  for row in rows:
    try:
      values.append(parse_fn(row[name]))
    except (ValueError, errors.InputError) as error:
      wrong.append(f"{row['image']} ({row[name]!r}: {error})")
  _refuse(path, wrong, f"have another {name}", expected)
  return np.array(values)


def _refuse(
  path: pathlib.Path, images: Iterable[str], what: str, expected: str = ""
) -> None:
  images = sorted(images)
  if images:
    raise errors.InputError(
      f"{path}: {len(images)} images {what}, such as {', '.join(images[:2])}", expected
    )


def _is_synthetic(text: str) -> bool:
  if text.casefold() not in VERDICTS:
    raise ValueError("neither")
  return text.casefold() == SYNTHETIC


def _realism(text: str) -> int:
  if text not in REALISM:
    raise ValueError("no such grade")
  return int(text)
