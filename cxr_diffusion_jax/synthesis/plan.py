"""Which images a synthetic dataset is to have: quotas by findings, sex, age and view.

plan.csv, vocabulary --read--> Plan, as does `balance` from labels
image number --place--> its quota, and which image of the quota it is
"""

import bisect
from collections.abc import Sequence
import dataclasses
import itertools
import os
import re

import numpy as np

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.data import csv_table
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.image_sets.image_set import SEXES, VIEWS

COLUMNS = ("findings", "sex", "age", "view", "num")

OLDEST = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quota:
  """A number of images of one kind.

  Attributes:
    findings: all that are present, in the vocabulary's order; () for No Finding; None
      if they are left open.
    sex: 'F' or 'M'; '' if it is left open.
    ages: (youngest, oldest) in whole years, both included; None if left open.
    view: 'PA' or 'AP'; '' if it is left open.
  """

  num: int
  findings: tuple[str, ...] | None = None
  sex: str = ""
  ages: tuple[int, int] | None = None
  view: str = ""

  @property
  def title(self) -> str:
    """One line for reports, such as 'Effusion, F, 40-59, PA'."""
    parts = [] if self.findings is None else ["|".join(self.findings)]
    if self.findings == ():
      parts = [labels_lib.NO_FINDING]
    if self.ages:
      low, high = self.ages
      parts.append(f"{low}-{high}" if high > low else f"{low}")
    parts = [*parts[:1], self.sex, *parts[1:], self.view]
    return ", ".join(filter(None, parts)) or "any"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Quotas whose images are numbered one after the other."""

  quotas: tuple[Quota, ...]

  def __post_init__(self):
    ends = itertools.accumulate(quota.num for quota in self.quotas)
    object.__setattr__(self, "_ends", tuple(ends))

  def __len__(self) -> int:
    return sum(quota.num for quota in self.quotas)

  def place(self, number: int) -> tuple[int, int]:
    """The quota of an image, and its place within the quota."""
    ends: tuple[int, ...] = vars(self)["_ends"]
    row = bisect.bisect_right(ends, number)
    return row, number - (ends[row - 1] if row else 0)


def read(
  path: str | os.PathLike, vocabulary: Sequence[str], num: int | None = None
) -> Plan:
  """Reads a CSV whose rows are quotas, with some of the columns `COLUMNS`.

  An empty cell leaves an attribute open. Findings are separated by `|` or are
  `No Finding`; an age is a number of years or a range such as `40-59`.

  Args:
    num: total number of images, divided evenly over the rows if they give no numbers.

  Raises:
    errors.InputError: no such file, or a column or a cell that cannot be read; names
      the line.
  """
  table = csv_table.read_table(path, {}, {name: (name,) for name in COLUMNS})
  for name in filter(None, table.header):
    if name.casefold() not in COLUMNS:
      raise errors.InputError(
        f"{table.path} line 1 has the column {name!r}",
        f"some of {', '.join(COLUMNS)}",
        naming.nearest(name.casefold(), COLUMNS) or "remove the column",
      )
  if not set(table.places) - {"num"}:
    raise errors.InputError(
      f"{table.path} has no column to plan by", "findings, sex, age or view"
    )
  open_cells: list[object] = [None] * len(table.rows)
  parse_fns = {
    "findings": lambda text: _findings(text, vocabulary),
    "sex": lambda text: _code(text, SEXES),
    "age": _ages,
    "view": lambda text: _code(text, VIEWS),
    "num": _count,
  }
  columns = {
    name: table.parse(name, parse_fns[name]) if name in table.places else open_cells
    for name in COLUMNS
  }
  nums = columns["num"] if "num" in table.places else shares(num, len(table.rows))
  quotas = tuple(
    Quota(num=count, findings=findings, sex=sex or "", ages=ages, view=view or "")
    for findings, sex, ages, view, count in zip(
      *(columns[name] for name in COLUMNS[:-1]), nums, strict=True
    )
  )
  plan = Plan(quotas=quotas)
  if num is not None and num != len(plan):
    raise errors.InputError(
      f"{num} images for {table.path}, whose rows add up to {len(plan)}",
      "one of the two",
      "leave the total number out, or the column 'num'",
    )
  return plan


def shares(num: int | None, rows: int) -> list[int]:
  """Divides a number of images evenly over rows; parts differ by one at most.

  Raises:
    errors.InputError: no number, or fewer images than rows.
  """
  if num is None or num < rows:
    raise errors.InputError(
      f"{'no number of' if num is None else num} images for {rows} quotas",
      "one or more for each",
      "give a total number of images, or each row's in a column 'num'",
    )
  return [num * (row + 1) // rows - num * row // rows for row in range(rows)]


def showing(
  rows: np.ndarray, findings: Sequence[str], vocabulary: Sequence[str]
) -> np.ndarray:
  """Which rows [n k] show these findings and no other that is known, [n] bool.

  No findings need a full negative, in which all are known to be absent.
  """
  asked = [name in findings for name in vocabulary]
  if not any(asked):
    return labels_lib.is_none(rows, vocabulary)
  return ((np.asarray(rows) > 0.5) == asked).all(axis=1)


def _findings(text: str, vocabulary: Sequence[str]) -> tuple[str, ...] | None:
  if text in ("", labels_lib.UNKNOWN):
    return None
  row = labels_lib.parse(text, vocabulary)
  if np.isnan(row).any():
    raise ValueError(
      f"names or {labels_lib.NO_FINDING}; a blank cell leaves findings open"
    )
  return labels_lib.names_of(row, vocabulary)


def _code(text: str, names: Sequence[str]) -> str:
  if text.upper() not in ("", *names):
    raise ValueError(f"{' or '.join(names)}, or nothing to leave it open")
  return text.upper()


def _ages(text: str) -> tuple[int, int] | None:
  if not text:
    return None
  # Word processors write a dash in place of a hyphen.
  match = re.fullmatch(r"(\d{1,3})(?:\s*[-\u2013]\s*(\d{1,3}))?", text)
  ends = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
  if not ends[0] <= ends[1] <= OLDEST:
    raise ValueError(
      f"whole years from 0 to {OLDEST}, such as 63 or 40-59, or nothing to leave it"
      " open"
    )
  return ends


def _count(text: str) -> int:
  if not re.fullmatch(r"[0-9]{1,7}", text) or not int(text):
    raise ValueError("a number of images, 1 or more")
  return int(text)
