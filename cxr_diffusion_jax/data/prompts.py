"""Sentences that describe a chest X-ray by its labels, and the way back.

findings, view, age, sex --seed--> one of several phrasings --> the same findings

Every phrase names its finding in a way that no other finding's phrases contain, and
nothing is negated but all findings at once, so the label set can be read back exactly.
"""

from collections.abc import Sequence
import functools
import hashlib
import re

import numpy as np

from cxr_diffusion_jax.data import labels

# Phrasings of each finding; all can follow "showing".
PHRASES = {
  "Atelectasis": ("atelectasis", "atelectasis with volume loss"),
  "Cardiomegaly": ("cardiomegaly", "an enlarged heart", "enlargement of the heart"),
  "Consolidation": ("consolidation", "airspace consolidation"),
  "Edema": ("pulmonary edema", "edema of the lungs"),
  "Effusion": ("pleural effusion", "an effusion in the pleural space"),
  "Emphysema": ("emphysema", "hyperinflated lungs with emphysema"),
  "Fibrosis": ("fibrosis", "pulmonary fibrosis"),
  "Hernia": ("hernia", "a hiatal hernia"),
  "Infiltration": ("infiltration", "an infiltrate", "patchy infiltrates"),
  "Mass": ("a lung mass", "a mass in the lung"),
  "Nodule": ("a lung nodule", "a nodule in the lung"),
  "Pleural_Thickening": ("pleural thickening", "thickening of the pleura"),
  "Pneumonia": ("pneumonia", "signs of pneumonia"),
  "Pneumothorax": ("pneumothorax", "a pneumothorax"),
}

NONE_PHRASES = ("no finding", "no abnormality", "clear lungs and a normal heart")

# What is certain to stand in a phrase of the finding and in no other's.
PATTERNS = {
  "Atelectasis": r"atelectasis",
  "Cardiomegaly": r"cardiomegaly|enlarged heart|enlargement of the heart",
  "Consolidation": r"consolidation",
  "Edema": r"edema",
  "Effusion": r"effusion",
  "Emphysema": r"emphysema",
  "Fibrosis": r"fibrosis",
  "Hernia": r"hernia",
  "Infiltration": r"infiltrat(?:ion|es?)",
  "Mass": r"mass",
  "Nodule": r"nodule",
  "Pleural_Thickening": r"pleural thickening|thickening of the pleura",
  "Pneumonia": r"pneumonia",
  "Pneumothorax": r"pneumothorax",
}

TEMPLATES = (
  "{view} chest x-ray of {person} showing {findings}.",
  "chest radiograph, {view} view, {person}: {findings}.",
  "{findings} on {view} chest radiograph of {person}.",
  "{view} view of the chest of {person} with {findings}.",
  "frontal chest x-ray ({view}) of {person}, {findings}.",
)

VIEWS = {
  "PA": ("pa", "posteroanterior"),
  "AP": ("ap", "anteroposterior"),
}
SEXES = {"M": ("man", "male patient"), "F": ("woman", "female patient")}
UNKNOWN_VIEW, UNKNOWN_SEX = ("frontal",), ("person", "patient")


def prompt(
  findings: Sequence[str],
  *,
  view: str | None = None,
  age: float | None = None,
  sex: str | None = None,
  seed: int | str = 0,
) -> str:
  """One sentence, at most about 45 words, in lower case.

  Args:
    findings: names of `labels.FINDINGS` in any spelling; empty for none.
    view: 'PA', 'AP' or None for unknown.
    age: years; None or nan for unknown.
    sex: 'M', 'F' or None for unknown.
    seed: chooses the phrasing; an image's name makes a good one.

  Returns:
    The sentence; `findings_of` gives the findings back.

  Raises:
    InputError: an unknown finding.
  """
  digest = hashlib.sha256(repr(seed).encode()).digest()
  rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))

  def choose(options: Sequence[str]) -> str:
    return options[rng.integers(len(options))]

  indices = sorted({labels.finding_index(name) for name in findings})
  names = [labels.FINDINGS[index] for index in rng.permutation(indices).astype(int)]
  phrases = [choose(PHRASES[name]) for name in names] or [choose(NONE_PHRASES)]
  text = choose(TEMPLATES).format(
    view=choose(VIEWS.get(view, UNKNOWN_VIEW)),
    person=_person(age, choose(SEXES.get(sex, UNKNOWN_SEX))),
    findings=_enumerate(phrases),
  )
  # "frontal chest x-ray (frontal)" where the view is unknown.
  return text.replace("frontal chest x-ray (frontal)", "frontal chest x-ray")


def findings_of(text: str) -> tuple[str, ...]:
  """The findings that a sentence of `prompt` names, in the order of `labels.FINDINGS`.

  A user's own words are understood as far as they use the same terms; a finding that
  is negated is not told from one that is present.
  """
  return tuple(
    name for name in labels.FINDINGS if _pattern(name).search(text.casefold())
  )


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
  return re.compile(rf"\b(?:{PATTERNS[name]})\b")


def _person(age: float | None, noun: str) -> str:
  if age is None or np.isnan(age):
    return f"a {noun}"
  years = round(age)
  article = "an" if years in (8, 11, 18) or 80 <= years < 90 else "a"
  return f"{article} {years} year old {noun}"


def _enumerate(phrases: Sequence[str]) -> str:
  if len(phrases) == 1:
    return phrases[0]
  return f"{', '.join(phrases[:-1])} and {phrases[-1]}"
