"""A user's request for samples, and the conditions built from it.

Request --ConditionBuilder.build--> Conditions: n rows of fields, entries and pictures
"""

from collections.abc import Sequence
import dataclasses
import itertools
import pathlib

import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.data import labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What to generate from; empty fields are not given.

  Attributes:
    split: if nothing else is given, conditions are taken evenly from its images.
    image_ids: images of any split; their conditions are used.
    findings: such as 'Effusion,Cardiomegaly' or 'No Finding'.
    age: years.
    sex: 'F' or 'M'.
    view: 'PA' or 'AP'.
    references: paths of X-rays.
    negative_prompt: what to guide away from.
    unconditional: use no condition.
  """

  split: str = "test"
  image_ids: tuple[str, ...] = ()
  prompts: tuple[str, ...] = ()
  findings: tuple[str, ...] = ()
  age: float | None = None
  sex: str = ""
  view: str = ""
  references: tuple[str, ...] = ()
  negative_prompt: str = ""
  unconditional: bool = False

  @property
  def given(self) -> tuple[str, ...]:
    """Names of the given kinds of condition."""
    person = self.age is not None or self.sex or self.view
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
  """n conditions; row i of every field belongs to condition i.

  Attributes:
    fields: [n ...] what the conditioner reads from a batch.
    entries: descriptions for samples.json.
    names: safe for use in file names.
    references: uint8 [n h w 1], the images of the conditions, black for those without
      one; None if none has one.
    negative: fields [1 ...] of the negative prompt, or None.
  """

  fields: types.Batch
  entries: Sequence[artifacts.JsonMapping]
  names: Sequence[str]
  references: np.ndarray | None
  negative: types.Batch | None = None

  def __len__(self) -> int:
    return len(self.entries)

  def take(self, rows: Sequence[int]) -> "Conditions":
    """The conditions at these places."""
    return dataclasses.replace(
      self,
      fields={name: value[list(rows)] for name, value in self.fields.items()},
      entries=[self.entries[row] for row in rows],
      names=[self.names[row] for row in rows],
      references=None if self.references is None else self.references[list(rows)],
    )


def join_rows(parts: Sequence[Conditions]) -> Conditions:
  """Concatenates conditions of one run."""
  first = parts[0]
  shown = [part.references for part in parts]
  return Conditions(
    fields={
      name: np.concatenate([np.asarray(part.fields[name]) for part in parts])
      for name in first.fields
    },
    entries=[entry for part in parts for entry in part.entries],
    names=[name for part in parts for name in part.names],
    references=None if any(s is None for s in shown) else np.concatenate(shown),
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
      entries=[a | b for a, b in zip(joined.entries, part.entries, strict=True)],
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
    pairs = entry.items() - {("unconditional", True)}
    words = (
      "_".join(f"{key}-{value}" for key, value in sorted(pairs)) or "unconditional"
    )
  # ASCII, which every file system accepts.
  fit = "".join(c if c == "_" or (c.isascii() and c.isalnum()) else "-" for c in words)
  return fit[:40].strip("-") or "x"


def topic(request: Request, *, grid: object, interpolate: object, edit: object) -> str:
  """Summarises a request in a few words, for its folder's name."""
  kinds = {"grid": grid, "interpolate": interpolate, "edit": edit}
  words = [name for name, value in kinds.items() if value]
  texts = (*request.prompts, *request.findings, *request.image_ids)
  texts = (*texts, *(pathlib.PurePath(path).stem for path in request.references))
  if not (interpolate or (edit and not request.given)):
    fallback = request.given[0] if request.given else f"split {request.split}"
    words.append(texts[0] if texts else fallback)
  return " ".join(words)


def distinct(names: Sequence[str]) -> list[str]:
  """Numbers repeated names: x, x-2, x-3."""
  taken: dict[str, None] = {}
  for name in names:
    tries = (f"{name}-{number}" for number in itertools.count(2))
    fit = next(one for one in itertools.chain([name], tries) if one not in taken)
    taken[fit] = None
  return list(taken)
