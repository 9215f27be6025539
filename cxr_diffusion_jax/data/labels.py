"""Findings as text and as multi-hot rows, and tools that choose and merge classes.

"Edema|Effusion" <-> [n k] uint8 with two ones; "No Finding" <-> zeros

The vocabulary, the names of the k columns, is the dataset's: `Records.vocabulary`.
"""

from collections.abc import Iterable, Mapping, Sequence
import difflib
import os
from pathlib import Path

import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data.sources import base

NO_FINDING = "No Finding"


def finding_index(name: str, vocabulary: Sequence[str]) -> int:
  """The column of a finding, in any spelling: `Pleural Thickening`, `Infiltrate`.

  Raises:
    InputError: no finding has that name; with the names that are near in spelling.
  """
  # NIH's box file says Infiltrate where the labels say Infiltration.
  plain = name.strip().replace(" ", "_").casefold()
  plain = {"infiltrate": "infiltration"}.get(plain, plain)
  for index, finding in enumerate(vocabulary):
    if finding.replace(" ", "_").casefold() == plain:
      return index
  near = _nearest(plain, vocabulary)
  raise errors.InputError(
    f"unknown finding {name!r}",
    f"one of {', '.join(vocabulary)} or {NO_FINDING}",
    f"did you mean {' or '.join(near)}?" if near else "",
  )


def parse(text: str, vocabulary: Sequence[str]) -> np.ndarray:
  """Parses `Effusion, cardiomegaly`, `Effusion|Cardiomegaly` or `No Finding`.

  Returns:
    [k] uint8, 1 where the finding is named.

  Raises:
    InputError: no name, an unknown one, or `No Finding` beside a finding.
  """
  return _parse(text.replace(",", "|"), vocabulary)


def multi_hot(texts: Iterable[str], vocabulary: Sequence[str]) -> np.ndarray:
  """Parses n label texts such as `Edema|Effusion` to [n k] uint8; see `parse`."""
  # 112,120 rows hold only 836 distinct texts: each is parsed once.
  parsed: dict[str, np.ndarray] = {}
  rows = []
  for text in texts:
    if text not in parsed:
      parsed[text] = _parse(text, vocabulary)
    rows.append(parsed[text])
  return np.array(rows, np.uint8).reshape(-1, len(vocabulary))


def names_of(findings: np.ndarray, vocabulary: Sequence[str]) -> tuple[str, ...]:
  """The names of the findings present (above 0.5) in one row [k]; unknown is absent."""
  return tuple(
    name for name, value in zip(vocabulary, findings, strict=True) if value > 0.5
  )


def top_k(
  findings: np.ndarray, vocabulary: Sequence[str], count: int
) -> tuple[str, ...]:
  """The most frequent of findings [n k], most frequent first, ties in their order."""
  order = np.argsort(-findings.sum(axis=0, dtype=np.int64), kind="stable")
  return tuple(vocabulary[int(index)] for index in order[:count])


def merge(
  findings: np.ndarray, vocabulary: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> np.ndarray:
  """Makes classes out of findings: a class is present where any of its findings is.

  Args:
    findings: [n k] multi-hot.
    vocabulary: of the k columns.
    groups: class name -> names of its findings; `No Finding` is allowed as one.

  Returns:
    [n g] uint8, one column a group, in the order of `groups`.

  Raises:
    InputError: an unknown finding.
  """
  none = ~findings.any(axis=1, keepdims=True)
  extended = np.concatenate([findings.astype(bool), none], axis=1)
  columns = []
  for names in groups.values():
    indices = [
      len(vocabulary) if name == NO_FINDING else finding_index(name, vocabulary)
      for name in names
    ]
    columns.append(extended[:, indices].any(axis=1))
  return np.array(columns, np.uint8).reshape(len(groups), len(findings)).T


def balance(findings: np.ndarray, *, limit: int, seed: int) -> np.ndarray:
  """Chooses rows so that no class has more than `limit` of them.

  Each row counts once, for the rarest of its findings (or for `No Finding`), so that
  rare findings keep their rows when common ones are thinned.

  Returns:
    [m] indices of the kept rows of `findings` [n k], ascending.
  """
  counts = findings.sum(axis=0, dtype=np.int64)
  by_rarity = np.argsort(counts, kind="stable")
  present = findings[:, by_rarity].astype(bool)
  rarest = np.where(present.any(axis=1), by_rarity[present.argmax(axis=1)], -1)
  generator = np.random.default_rng(seed)
  kept = [
    generator.permutation(np.flatnonzero(rarest == label))[:limit]
    for label in range(-1, findings.shape[1])
  ]
  return np.sort(np.concatenate(kept))


def save_labels(
  path: str | os.PathLike, ids: Sequence[str], names: Sequence[str], values: np.ndarray
) -> None:
  """Writes a CSV: image ids [n], class names [k], multi-hot values [n k]."""
  rows = zip(ids, values.astype(int).tolist(), strict=True)
  lines = [["Image Index", *names], *([image_id, *row] for image_id, row in rows)]
  artifacts.write_text(Path(path), base.csv_text(lines))


def load_labels(
  path: str | os.PathLike,
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
  """Reads what `save_labels` wrote.

  Returns:
    ids [n], class names (k) and values [n k] uint8.

  Raises:
    InputError: not such a table.
  """
  rows = base.read_csv(path)
  if not rows or rows[0][:1] != ["Image Index"]:
    raise errors.InputError(f"{path} has no header", "Image Index and class names")
  names = tuple(rows[0][1:])
  for number, row in enumerate(rows[1:], start=2):
    if len(row) != len(names) + 1 or not set(row[1:]) <= {"0", "1"}:
      raise errors.InputError(
        f"{path} line {number} is {','.join(row)!r}",
        f"an image name and {len(names)} values 0 or 1",
      )
  values = np.array([row[1:] for row in rows[1:]], np.uint8)
  ids = np.array([row[0] for row in rows[1:]], np.str_)
  return ids, names, values.reshape(len(ids), len(names))


def _nearest(plain: str, vocabulary: Sequence[str]) -> list[str]:
  """At most three names near in spelling to one in lower case with underscores."""
  # What else findings are called, where that is closer than their name.
  names = {
    "airspace_disease": "Consolidation",
    "collapse": "Atelectasis",
    "emphysematous": "Emphysema",
    "enlarged_heart": "Cardiomegaly",
    "fibrotic_change": "Fibrosis",
    "fluid": "Effusion",
    "hiatal_hernia": "Hernia",
    "lung_mass": "Mass",
    "lung_nodule": "Nodule",
    "masses": "Mass",
    "normal": NO_FINDING,
    "oedema": "Edema",
    "opacity": "Consolidation",
    "pleural_effusion": "Effusion",
    "pneumothoraces": "Pneumothorax",
    "pulmonary_edema": "Edema",
    "pulmonary_fibrosis": "Fibrosis",
    "thickening": "Pleural_Thickening",
  }
  known = (*vocabulary, NO_FINDING)
  names = {other: name for other, name in names.items() if name in known}
  names |= {name.replace(" ", "_").casefold(): name for name in known}
  matches = difflib.get_close_matches(plain, names, n=3, cutoff=0.65)
  return list(dict.fromkeys(names[near] for near in matches))


def _parse(text: str, vocabulary: Sequence[str]) -> np.ndarray:
  names = [name for name in text.split("|") if name.strip()]
  row = np.zeros(len(vocabulary), np.uint8)
  if not names:
    raise errors.InputError(
      f"an empty finding label {text!r}", f"{NO_FINDING} or names separated by |"
    )
  if any(name.strip().casefold() == NO_FINDING.casefold() for name in names):
    if len(names) > 1:
      raise errors.InputError(
        f"finding labels {text!r}", f"{NO_FINDING} alone or findings alone"
      )
    return row
  for name in names:
    row[finding_index(name, vocabulary)] = 1
  return row
