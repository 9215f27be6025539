"""A user's request for samples, and the conditions built from it.

Request --ConditionBuilder.build--> Conditions: n rows of fields, entries and pictures
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import re

import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.data import labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What to generate from; empty fields are not given.

  If nothing but a split is, conditions are taken evenly from its images.
  """

  split: str = "test"
  image_ids: tuple[str, ...] = ()  # of any split
  prompts: tuple[str, ...] = ()
  findings: tuple[str, ...] = ()  # such as 'Effusion,Cardiomegaly' or 'No Finding'
  age: float | None = None  # years
  sex: str = ""  # 'F' or 'M'
  view: str = ""  # 'PA' or 'AP'
  source: str = ""  # of several that the run was trained on
  references: tuple[str, ...] = ()  # paths of X-rays
  negative_prompt: str = ""  # what to guide away from
  unconditional: bool = False

  @property
  def given(self) -> tuple[str, ...]:
    """Names of the given kinds of condition."""
    person = self.age is not None or self.sex or self.view or self.source
    values = {
      "prompt": self.prompts,
      "findings": self.findings or person,
      "reference": self.references,
      "image_ids": self.image_ids,
      "unconditional": self.unconditional,
    }
    return tuple(name for name, value in values.items() if value)

  @property
  def plain(self) -> bool:
    """Whether there is neither a condition nor a negative prompt."""
    return self.given == ("unconditional",) and not self.negative_prompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
  """n conditions; row i of every field belongs to condition i."""

  fields: types.Batch  # [n ...], what the conditioner reads from a batch
  entries: Sequence[artifacts.JsonMapping]  # descriptions for samples.json
  names: Sequence[str]  # safe for use in file names
  references: np.ndarray | None  # uint8 [n h w 1], the images of the conditions, if any
  negative: types.Batch | None = None  # fields [1 ...] of the negative prompt

  def __len__(self) -> int:
    return len(self.entries)

  def take(self, rows: Sequence[int] | np.ndarray) -> "Conditions":
    """The conditions at these places."""
    rows = np.asarray(rows)
    return dataclasses.replace(
      self,
      fields={name: value[rows] for name, value in self.fields.items()},
      entries=[self.entries[row] for row in rows],
      names=[self.names[row] for row in rows],
      references=None if self.references is None else self.references[rows],
    )


def join_rows(parts: Sequence[Conditions]) -> Conditions:
  """Concatenates conditions of one run."""
  first = parts[0]
  shown = [part.references for part in parts if part.references is not None]
  return Conditions(
    fields={
      name: np.concatenate([np.asarray(part.fields[name]) for part in parts])
      for name in first.fields
    },
    entries=[entry for part in parts for entry in part.entries],
    names=[name for part in parts for name in part.names],
    references=np.concatenate(shown) if len(shown) == len(parts) else None,
    negative=first.negative,
  )


def join(parts: Sequence[tuple[Conditions, Sequence[str]]]) -> Conditions:
  """Combines kinds of conditions row by row; each part contributes its own fields.

  Raises:
    errors.InputError: parts with different numbers of conditions, other than one.
  """
  n = max(len(part) for part, _ in parts)
  if any(len(part) not in (1, n) for part, _ in parts):
    counts = ", ".join(str(len(part)) for part, _ in parts)
    raise errors.InputError(
      f"{counts} conditions of different kinds", "as many of each, or one of a kind"
    )
  parts = [(part.take(np.arange(n) % len(part)), owned) for part, owned in parts]
  joined = parts[0][0]
  for part, owned in parts[1:]:
    joined = Conditions(
      fields=joined.fields | {name: part.fields[name] for name in owned},
      entries=[{**a, **b} for a, b in zip(joined.entries, part.entries, strict=True)],
      names=[f"{a}_{b}" for a, b in zip(joined.names, part.names, strict=True)],
      references=joined.references if part.references is None else part.references,
    )
  return joined


def slug(entry: artifacts.JsonMapping) -> str:
  """Returns a file name for a condition."""
  words = entry.get("prompt") or pathlib.PurePath(entry.get("reference", "")).stem
  if not words and "findings" in entry:
    words = "_".join(entry["findings"]) or labels.NO_FINDING
  if not words:
    pairs = sorted(entry.items() - {("unconditional", True)})
    words = "_".join(f"{key}-{value}" for key, value in pairs) or "unconditional"
  # ASCII, which every file system accepts.
  return re.sub("[^A-Za-z0-9_]", "-", words)[:40].strip("-") or "x"


def topic(request: Request, *, grid: object, interpolate: object, edit: object) -> str:
  """Summarises a request in a few words, for its folder's name."""
  kinds = {"grid": grid, "interpolate": interpolate, "edit": edit}
  words = [name for name, value in kinds.items() if value]
  files = (pathlib.PurePath(path).stem for path in request.references)
  texts = (*request.prompts, *request.findings, *request.image_ids, *files)
  if not (interpolate or (edit and not request.given)):
    words.append([*texts, *request.given, f"split {request.split}"][0])
  return " ".join(words)


def distinct(names: Sequence[str]) -> list[str]:
  """Numbers repeated names: x, x-2, x-3."""
  taken: dict[str, None] = {}
  for name in names:
    fit, number = name, 2
    while fit in taken:
      fit, number = f"{name}-{number}", number + 1
    taken[fit] = None
  return list(taken)
