"""Findings as text and as rows of present (1), absent (0) and unknown (nan).

"Edema|Effusion" <-> [k] uint8 with two ones; "No Finding" <-> zeros
"Edema|Mass=?"   <-> [k] float32 with a one and a nan

The vocabulary, the names of the k columns, is the dataset's: `Records.vocabulary`.
"""

from collections.abc import Iterable, Sequence
import difflib

import numpy as np

from cxr_diffusion_jax import errors

NO_FINDING = "No Finding"

# Behind the name of a finding that is unknown; alone for all that are not named.
UNKNOWN = "=?"

# Labels of what is no pathology, of which a statement that there is none says nothing:
# CheXpert's `No Finding` is "the absence of all pathologies".
NO_PATHOLOGIES = ("Support_Devices",)


def finding_index(name: str, vocabulary: Sequence[str]) -> int:
  """The column of a finding, in any spelling: `Pleural Thickening`, `Infiltrate`.

  Raises:
    InputError: no finding has that name; with the names that are near in spelling.
  """
  # NIH's box file says Infiltrate where the labels say Infiltration.
  spelled = plain(name)
  for same in (spelled, {"infiltrate": "infiltration"}.get(spelled, spelled)):
    for index, finding in enumerate(vocabulary):
      if plain(finding) == same:
        return index
  near = _nearest(spelled, vocabulary)
  raise errors.InputError(
    f"unknown finding {name!r}",
    f"one of {', '.join(vocabulary)} or {NO_FINDING}",
    f"did you mean {' or '.join(near)}?" if near else "",
  )


def parse(text: str, vocabulary: Sequence[str]) -> np.ndarray:
  """Parses `Effusion, cardiomegaly`, `Effusion|Cardiomegaly` or `No Finding`.

  A finding that is not named is absent; `Mass=?` is unknown, and so are all that are
  not named beside `=?`.

  Returns:
    [k] uint8, 1 where the finding is named; float32 with nan where one is unknown.

  Raises:
    InputError: no name, an unknown one, a finding both present and unknown, or
      `No Finding` beside a finding.
  """
  named = [name for name in text.replace(",", "|").split("|") if name.strip()]
  names = [name for name in named if not name.strip().endswith(UNKNOWN)]
  unknown = [name.strip() for name in named if name not in names]
  if unknown:
    return _with_unknown(text, names, unknown, vocabulary)
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


def names_of(findings: np.ndarray, vocabulary: Sequence[str]) -> tuple[str, ...]:
  """The names of the findings present (above 0.5) in one row [k].

  An empty tuple does not mean that the others are absent: see `stated`.
  """
  return tuple(
    name for name, value in zip(vocabulary, findings, strict=True) if value > 0.5
  )


def stated(findings: np.ndarray, vocabulary: Sequence[str]) -> tuple[str, ...] | None:
  """What one row [k] states: the findings present, () for none, None for nothing.

  () needs a full negative, see `is_none`.
  """
  names = names_of(findings, vocabulary)
  return names if names or is_none(np.asarray(findings), vocabulary) else None


def aligned(
  findings: np.ndarray, vocabulary: Sequence[str], names: Sequence[str]
) -> np.ndarray:
  """Findings [n k] in the columns of other names: [n m], nan for those not in k."""
  places = {plain(name): column for column, name in enumerate(vocabulary)}
  columns = [places.get(plain(name), len(vocabulary)) for name in names]
  if columns == list(range(len(vocabulary))):
    return np.asarray(findings)
  blank = np.full((len(findings), 1), np.nan, np.float32)
  return np.concatenate([findings, blank], axis=1)[:, columns]


def caption_of(findings: np.ndarray, vocabulary: Sequence[str]) -> str:
  """One row [k] in words for people: `Edema, Mass`, `No Finding`, `unknown`."""
  names = stated(findings, vocabulary)
  return "unknown" if names is None else ", ".join(names) or NO_FINDING


def is_none(findings: np.ndarray, vocabulary: Sequence[str] = ()) -> np.ndarray:
  """Which rows [n k] are full negatives, [n] bool: all findings known and absent.

  Of `NO_PATHOLOGIES` it is enough that they are not known to be present; without any
  other finding there is no full negative.
  """
  findings = np.asarray(findings)
  # False for nan.
  absent = findings <= 0.5
  no_pathologies = {plain(name) for name in NO_PATHOLOGIES}
  others = np.zeros(findings.shape[-1], bool)
  others[: len(vocabulary)] = [plain(name) in no_pathologies for name in vocabulary]
  absent = absent | (others & np.isnan(findings))
  return np.asarray(absent.all(axis=-1) & (not others.all()))


def text_of(findings: np.ndarray, vocabulary: Sequence[str]) -> str:
  """The text that `parse` reads as this row [k]: `Edema|Mass=?`, `No Finding`."""
  unknown = np.isnan(findings)
  if unknown.all():
    return UNKNOWN
  names = [
    f"{name}{UNKNOWN * bool(nan)}"
    for name, value, nan in zip(vocabulary, findings, unknown, strict=True)
    if nan or value > 0.5
  ]
  return "|".join(names) or NO_FINDING


def plain(name: str) -> str:
  """A name in lower case with underscores, which spellings of it share."""
  return name.strip().replace(" ", "_").casefold()


def distinct(names: Iterable[str]) -> tuple[str, ...]:
  """Names of different findings, in order; of several spellings the first."""
  spelled: dict[str, str] = {}
  for name in names:
    spelled.setdefault(plain(name), name)
  return tuple(spelled.values())


def any_of(findings: np.ndarray) -> np.ndarray:
  """Several findings [n m] as one, [n] float32.

  Present where any is, absent where all are, and unknown elsewhere.
  """
  joined = np.where((findings == 0).all(axis=1), 0, np.nan)
  return np.where((findings == 1).any(axis=1), 1, joined).astype(np.float32)


def _with_unknown(
  text: str, names: Sequence[str], unknown: Sequence[str], vocabulary: Sequence[str]
) -> np.ndarray:
  """A row [k] float32 of the names of present findings and of `Mass=?` or `=?`."""
  present = [finding_index(name, vocabulary) for name in names]
  row = np.full(len(vocabulary), np.nan if UNKNOWN in unknown else 0, np.float32)
  row[present] = 1
  for name in unknown:
    if name == UNKNOWN:
      continue
    index = finding_index(name.removesuffix(UNKNOWN), vocabulary)
    if index in present:
      raise errors.InputError(
        f"finding labels {text!r}", f"{vocabulary[index]} present or unknown, not both"
      )
    row[index] = np.nan
  return row


def _nearest(spelled: str, vocabulary: Sequence[str]) -> list[str]:
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
  names |= {plain(name): name for name in known}
  matches = difflib.get_close_matches(spelled, names, n=3, cutoff=0.65)
  return list(dict.fromkeys(names[near] for near in matches))
