"""What sources share: how cells of their tables are read, and where images are.

"LATERAL" -> 2    "-1.0" -> nan    boxes of readers -> one a finding
"""

import collections
from collections.abc import Callable, Iterable, Sequence
import os
from pathlib import PurePosixPath
import re
from typing import Any

from etils import epath
import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data import (
  csv_table,
  dicom,
  file_search,
  images,
  labels,
)
from cxr_diffusion_jax.data.sources import base

# Files that sources take as images.
IMAGES = (".png", ".jpg", ".jpeg", *dicom.EXTENSIONS)

# Levels of folders in which images of a table are looked for.
_DEPTH = 6

# CheXpert's labels: an uncertain mention is as unknown as none.
LABELS = {
  **dict.fromkeys(("1", "1.0", "true"), 1.0),
  **dict.fromkeys(("0", "0.0", "false"), 0.0),
  **dict.fromkeys(("-1", "-1.0", "", "nan"), float("nan")),
}

# Words in place of findings of which it is not known what they state.
_NO_NAMES = (
  *("na", "n/a", "#n/a", "none", "null", "normal", "no_findings", "unknown"),
  *("true", "false", "yes", "no"),
)

# Lateral, oblique and rib views, as corpora call them.
_NOT_FRONTAL = (
  *("L", "LL", "RL", "LAT", "LLAT", "SWIMMERS", "LAO", "RAO", "LPO", "RPO"),
  *("COSTAL", "EXCLUDE"),
)


def parse_label(text: str) -> float:
  """1 or true: present, 0 or false: absent, nan for uncertain (-1) and blank cells.

  Raises:
    ValueError: another value.
  """
  if text.casefold() not in LABELS:
    raise ValueError("1, 0, -1 or nothing")
  return LABELS[text.casefold()]


def is_blank(text: str) -> bool:
  """Whether a label is not stated; -1 is, as uncertain."""
  return text.casefold() in ("", "nan")


def parse_view(text: str) -> int:
  """0 PA, 1 AP, `base.LATERAL` if it is not frontal, -1 for anything else."""
  text = text.strip().upper()
  if text in _NOT_FRONTAL:
    return base.LATERAL
  # Such as `AP AXIAL`, `AP_horizontal`, `PA LLD`, `postero-anterior`.
  words = re.sub(r"[_-]", " ", text)
  frontal = -1
  if re.match(r"PA\b|POSTERO ?ANTERIOR\b", words):
    frontal = 0
  elif re.match(r"AP\b|ANTERO ?POSTERIOR\b", words):
    frontal = 1
  # A lateral decubitus image is frontal, of a patient on the side.
  if "DECUBITUS" in words or not re.search(r"\bLATERAL\b", words):
    return frontal
  # `PA and lateral` is of an examination: either of its images.
  return base.LATERAL if frontal < 0 else -1


def views_of(table: csv_table.CsvTable, key: str) -> tuple[np.ndarray, tuple[str, ...]]:
  """Views [n] int8, -1 without the column, and a note on texts not understood."""
  if key not in table.places:
    return np.full(len(table.rows), -1, np.int8), ()
  views = np.array(table.parse(key, parse_view), np.int8)
  cells = zip(table.column(key), views.tolist(), strict=True)
  rest = [text for text, view in cells if text and view < 0]
  if not rest:
    return views, ()
  name = table.header[table.places[key]]
  examples = ", ".join(map(repr, list(dict.fromkeys(rest))[:3]))
  return views, (f"{len(rest)} cells of {name!r} name no known view, as {examples}",)


def integer(text: str) -> int | None:
  """An integer of 32 bits; None for another text."""
  if re.fullmatch(r"\d{1,10}(\.0)?", text) and (number := int(float(text))) < 2**31:
    return number
  return None


def number(text: str) -> float:
  """A number, nan for a blank cell; ValueError for another text."""
  try:
    return float(text or "nan")
  except ValueError:
    raise ValueError(f"a number in place of {text!r}") from None


def findings_of_lists(
  table: csv_table.CsvTable, key: str
) -> tuple[tuple[str, ...], np.ndarray]:
  """Lists such as `Edema|Effusion` name all that is present; blank is unknown.

  `Mass=?` is unknown, and so is all that a list with `=?` does not name.

  Returns:
    The vocabulary, sorted, and findings [n k] float32.

  Raises:
    InputError: a cell that is no list of findings.
  """
  lists = table.parse(key, _list)
  names = {name.removesuffix(labels.UNKNOWN).strip() for one in lists for name in one}
  vocabulary = labels.distinct(sorted(names - {labels.NO_FINDING, ""}))
  parsed = {
    names: labels.parse("|".join(names) or labels.UNKNOWN, vocabulary)
    for names in dict.fromkeys(lists)
  }
  return vocabulary, np.array([parsed[names] for names in lists], np.float32)


def findings_of_columns(
  table: csv_table.CsvTable,
) -> tuple[tuple[str, ...], np.ndarray]:
  """The findings that a table's keys name, one column of `parse_label` each.

  Columns of one finding in several spellings are joined by `labels.any_of`. Blanks
  beside a 1 of `No Finding` are absences, except of what is no pathology; -1 stays
  unknown there.

  Returns:
    The vocabulary without `No Finding`, and findings [n k] float32.

  Raises:
    InputError: a cell that is no label, or a finding and `No Finding` both present.
  """
  spellings: dict[str, list[str]] = {}
  for name in table.places:
    spellings.setdefault(labels.plain(name), []).append(name)

  def parsed(name: str, parse_fn: Callable[[str], Any]) -> np.ndarray:
    own = spellings[labels.plain(name)]
    return np.array([table.parse(one, parse_fn) for one in own])

  names = labels.distinct(table.places)
  values = {name: labels.any_of(parsed(name, parse_label).T) for name in names}
  none = np.zeros(len(table.rows), bool)
  for name in names:
    if labels.plain(name) == labels.plain(labels.NO_FINDING):
      none |= values.pop(name) == 1
  others = {labels.plain(name) for name in labels.NO_PATHOLOGIES}
  for name, column in values.items():
    if labels.plain(name) in others:
      continue
    if (wrong := np.flatnonzero(none & (column == 1))).size:
      raise errors.InputError(
        f"{table.path} line {table.rows[wrong[0]][0]}: {name} and {labels.NO_FINDING}",
        f"{labels.NO_FINDING} alone or findings alone",
      )
    column[none & parsed(name, is_blank).all(axis=0)] = 0
  findings = np.stack([*values.values(), none])[:-1].T
  return tuple(values), findings.astype(np.float32)


def _list(text: str) -> tuple[str, ...]:
  """The names in a cell; ValueError for words that may mean none or unknown."""
  if text.casefold() == "nan":
    return ()
  parts = (part.strip() for part in re.split(r"[|,;]", text))
  none = labels.plain(labels.NO_FINDING)
  names = tuple(
    labels.NO_FINDING if labels.plain(part) == none else part for part in parts if part
  )
  for name in names:
    if labels.plain(name) in _NO_NAMES or re.fullmatch(r"[-+\d.#/?]*", name):
      raise ValueError(
        f"names of findings, {labels.NO_FINDING}, or a blank cell for unknown"
      )
  if len(names) > 1 and labels.NO_FINDING in names:
    raise ValueError(f"{labels.NO_FINDING} alone or findings alone")
  return names


def boxes_of(rows: Iterable[tuple[int, np.ndarray]], num_findings: int) -> np.ndarray:
  """The smallest boxes around those of each finding: [k 4] float32, nan for none.

  Args:
    rows: (column of a finding, its box (x, y, width, height)).
  """
  boxes = np.full((num_findings, 4), np.nan, np.float32)
  for column, box in rows:
    both = np.stack([boxes[column], box])
    low = np.nanmin(both[:, :2], axis=0)
    high = np.nanmax(both[:, :2] + both[:, 2:], axis=0)
    boxes[column] = np.concatenate([low, high - low])
  return boxes


def image_ids(cells: Sequence[str]) -> np.ndarray:
  """Names without folder and extension; with the folder where names repeat."""
  stems = [csv_table.stem(cell) for cell in cells]
  if len({*stems}) < len(stems):
    folders = [PurePosixPath(cell.replace("\\", "/")).parent.parts for cell in cells]
    stems = [
      "-".join((*(part for part in parts if part != "/"), stem))
      for parts, stem in zip(folders, stems, strict=True)
    ]
  return np.array(stems, np.str_)


def find_images(
  folder: epath.Path, cells: Sequence[str]
) -> tuple[list[str | None], int]:
  """Where each image is, None for absent ones, and the number of images there are.

  A cell is a path, absolute or from the table's folder, or a name without its folder or
  extension, if no other cell and no other image has that name.
  """
  prefix = os.fspath(folder).rstrip("/") + "/"
  files = [os.fspath(path) for path in file_search.find_files(folder, IMAGES, _DEPTH)]
  by_path = {path.removeprefix(prefix): path for path in files}
  by_stem: dict[str, str | None] = {}
  for path in files:
    stem = csv_table.stem(path)
    by_stem[stem] = None if stem in by_stem else path
  # Of `p1/image` and `p2/image`, the one that is absent must not get the other's.
  stems = collections.Counter(map(csv_table.stem, cells))

  def find(cell: str) -> str | None:
    path = cell.replace("\\", "/").removeprefix("./")
    if path in by_path:
      return by_path[path]
    is_absolute = path.startswith("/") or artifacts.is_remote(path)
    if is_absolute and epath.Path(path).exists():
      return path
    by_extension = [by_path[path + end] for end in IMAGES if path + end in by_path]
    if by_extension:
      return by_extension[0]
    stem = csv_table.stem(path)
    return by_stem.get(stem) if stems[stem] == 1 else None

  return [find(cell) for cell in cells], len(files)


def existing(folder: epath.Path, names: Iterable[str]) -> list[str | None]:
  """The paths of those files below a folder that exist, None for others."""
  # Joined as texts: path objects take most of the time at 400,000 files.
  prefix = os.fspath(folder).rstrip("/")
  paths = [f"{prefix}/{name}" for name in names]
  if artifacts.is_remote(prefix):
    exist = images.in_threads(lambda path: epath.Path(path).exists(), paths)
  else:
    exist = map(os.path.exists, paths)
  return [path if there else None for path, there in zip(paths, exist, strict=True)]


def first_file(root: epath.Path, *names: str) -> epath.Path | None:
  """`file_search.first_file` of names, each by itself or compressed as `.gz`."""
  return file_search.first_file(
    root / f"{name}{end}" for name in names for end in ("", ".gz")
  )


def need_file(root: epath.Path, *names: str, where: str) -> epath.Path:
  """As `first_file`.

  Raises:
    InputError: none exists, or one is a link to nothing; `where` says from where to get
      it.
  """
  path = first_file(root, *names)
  if path is None:
    missing = "not a folder" if root.exists() else "no such folder"
    kind = f"no {names[0]} in it" if root.is_dir() else missing
    raise errors.InputError(
      f"data root {root}: {kind}",
      f"the folder with {' or '.join(names)}",
      f"--config.data.root=FOLDER; get it from {where}",
    )
  return path
