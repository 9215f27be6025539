"""Findings as text and as multi-hot rows.

"Edema|Effusion" <-> [k] uint8 with two ones; "No Finding" <-> zeros

The vocabulary, the names of the k columns, is the dataset's: `Records.vocabulary`.
"""

from collections.abc import Sequence
import difflib

import numpy as np

from cxr_diffusion_jax import errors

NO_FINDING = "No Finding"


def finding_index(name: str, vocabulary: Sequence[str]) -> int:
  """The column of a finding, in any spelling: `Pleural Thickening`, `Infiltrate`.

  Raises:
    InputError: no finding has that name; with the names that are near in spelling.
  """
  # NIH's box file says Infiltrate where the labels say Infiltration.
  spelled = plain(name)
  spelled = {"infiltrate": "infiltration"}.get(spelled, spelled)
  for index, finding in enumerate(vocabulary):
    if plain(finding) == spelled:
      return index
  near = _nearest(spelled, vocabulary)
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
  names = [name for name in text.replace(",", "|").split("|") if name.strip()]
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
  """The names of the findings present (above 0.5) in one row [k]; unknown is absent."""
  return tuple(
    name for name, value in zip(vocabulary, findings, strict=True) if value > 0.5
  )


def plain(name: str) -> str:
  """A name in lower case with underscores, which spellings of it share."""
  return name.strip().replace(" ", "_").casefold()


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
