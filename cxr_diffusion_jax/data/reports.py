"""The text of radiologists' reports: sections, marks of de-identification, sentences.

report --headings--> sections --FINDINGS, IMPRESSION--> one text without `___`
  --> sentences --seed--> caption k: some sentences in a row

Headings and fallbacks are those of the parser that MIMIC-CXR's authors publish with
their data: lines of capitals that end in a colon; of several sections with one name the
last counts; a report with neither section gives its last paragraph. Where no line
begins with either, as in reports of one line, usual headings are taken anywhere.
"""

from collections.abc import Iterable, Sequence
import difflib
import hashlib
import re

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table

_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z ()/,&-]+):(?=\s|$)", re.MULTILINE)
# The same, and usual headings at any place.
_ANYWHERE = re.compile(
  r"(?:^[ \t]*|\b(?=(?:EXAM(?:INATION)?|INDICATION|(?:CLINICAL )?HISTORY|TECHNIQUE"
  r"|COMPARISONS?|FINDINGS?|IMPRESSION|CONCLUSION|RECOMMENDATIONS?):))"
  r"([A-Z][A-Z ()/,&-]+):(?=\s|$)",
  re.MULTILINE,
)
_TAKEN = ("findings", "impression")

# What headings of findings may be about, in place of that word.
_VIEWS = re.compile(
  r"\b(chest|portable|lateral|frontal|pa|ap|(one|two|single) views?|radiographs?)\b"
)
# Headings with the word `findings` or `impression` that are neither.
_NEITHER = ("provisional", "wet read", "preliminary")
_MISSPELLED = 0.8

# A mark with the words that lead to it: `study of ___`, `Dr. ___`, `at ___ p.m.`
_MARK = re.compile(
  r"(?:\b(?:dr|drs|mr|mrs|ms|dated?|of|on|at|by|from|to|with|than|since|in|and)\b\.?\s+){0,8}"
  r"_{2,}(?:\s*[:/,-]\s*_{2,})*(?:\s*[ap]\.?m\b\.?)?",
  re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(])")
_ABBREVIATION = re.compile(r"\b(?:dr|mr|mrs|ms|no|vs|e\.g|i\.e|approx|cm|mm)\.$", re.I)

# The number of a point: `1. Small effusion.`
_NUMBER = re.compile(r"(?:^|(?<=[.:;] ))\d{1,2}[.)] (?=[A-Z])")

# Words of a caption, so that it fits a text encoder's 77 tokens.
CAPTION_WORDS = 45


def report_text(report: str) -> str:
  """FINDINGS and then IMPRESSION of a report, in one line.

  A report without headings is taken whole; one with others only gives its last
  paragraph. Empty where nothing is said.
  """
  parts = sections(report)
  chosen = [parts[name] for name in _TAKEN if parts.get(name)]
  if not chosen:
    chosen = [parts.get("last_paragraph", "")]
  return without_marks(" ".join(dict.fromkeys(chosen)))


def sections(report: str) -> dict[str, str]:
  """Section -> text as it stands: `findings`, `impression`, others by their heading.

  `last_paragraph` is there where neither of the first two is: the report's end, from
  the last heading's first blank line on, or the whole of a report without headings.
  """
  report = report.replace("\r\n", "\n").replace("\r", "\n")
  headings = list(_HEADING.finditer(report))
  if not any(_section(heading[1]) in _TAKEN for heading in headings):
    anywhere = list(_ANYWHERE.finditer(report))
    if any(_section(heading[1]) in _TAKEN for heading in anywhere):
      headings = anywhere
  if not headings:
    return {"last_paragraph": report.strip()}
  ends = [heading.start() for heading in headings[1:]] + [len(report)]
  result: dict[str, str] = {}
  for heading, end in zip(headings, ends, strict=True):
    text = report[heading.end() : end].strip()
    if text:
      result[_section(heading[1])] = text
  if not {*_TAKEN} & set(result):
    _, *rest = re.split(r"\n[ \t]*\n", report[headings[-1].end() :].strip())
    if rest:
      result["last_paragraph"] = "\n\n".join(rest)
  return result


def without_marks(text: str) -> str:
  """A text in one line, without `___`, words that lead to it, and numbers of points."""
  text = _MARK.sub(" ", " ".join(text.split()))
  text = re.sub(r"\(\s*[,;.]?\s*\)", " ", text)
  text = re.sub(r"\s+([.,;:!?)])", r"\1", " ".join(text.split()))
  text = _NUMBER.sub("", re.sub(r"([,;:])(?=[.,;])", "", text))
  return re.sub(r"(?<=[.!?])[.,;]+(?!\d)", "", text).strip(" ,;:")


def sentences(text: str) -> list[str]:
  """The sentences of a text in one line, in order."""
  result: list[str] = []
  for part in _SENTENCE.split(text):
    if result and _ABBREVIATION.search(result[-1]):
      result[-1] += f" {part}"
    elif part.strip():
      result.append(part.strip())
  return result


def caption(text: str, seed: str) -> str:
  """Sentences of a report in a row, from a random one on, as many as fit an encoder.

  Args:
    text: of `report_text`.
    seed: chooses the first sentence.

  Returns:
    At least one sentence, and at most `CAPTION_WORDS` words unless that one is longer.
  """
  parts = sentences(text)
  if not parts:
    return text
  digest = hashlib.sha256(seed.encode()).digest()
  first = int.from_bytes(digest[:8], "little") % len(parts)
  chosen, words = [parts[first]], len(parts[first].split())
  for part in parts[first + 1 :]:
    words += len(part.split())
    if words > CAPTION_WORDS:
      break
    chosen.append(part)
  return " ".join(chosen)


def captions(
  ids: Sequence[str], texts: Sequence[str] | None, *, seed: int, number: int
) -> list[str]:
  """A caption of each image's report: the whole of it, or another one of its captions.

  Args:
    texts: reports, '' for none; None where there are none at all.
    number: 0 for whole reports.
  """
  texts = [""] * len(ids) if texts is None else texts
  if not number:
    return list(texts)
  pairs = zip(ids, texts, strict=True)
  return [caption(text, f"{seed}/{name}/{number}") for name, text in pairs]


def check(ids: Sequence[str], texts: Sequence[str], root: str) -> None:
  """Raises InputError if an image of the dataset at `root` has no report."""
  missing = [name for name, text in zip(ids, texts, strict=True) if not text]
  if missing:
    raise errors.InputError(
      f"{len(missing)} images of {root} have no report, as {missing[0]}",
      "one each, in a column `report` or in the source's files",
      "add them, leave these images out with config.data.missing=drop, or set"
      " config.data.prompts=labels or report_or_labels",
    )


def caption_fingerprint() -> str:
  """12 hex digits that change when captions of a report may change."""
  text = "Dr. No saw it. The 1.5 cm mass grew, vs. before. (No edema.) " * 12
  captions = [caption(text, str(seed)) for seed in range(20)]
  return hashlib.sha256("\n".join(captions).encode()).hexdigest()[:12]


def reports_of(
  table: csv_table.CsvTable, key: str, ids: np.ndarray
) -> tuple[dict[str, str], tuple[str, ...]]:
  """Image -> text of its report, and a note on reports of which nothing is taken."""
  cells = table.column(key)
  texts = [report_text(cell) for cell in cells]
  lost = [row for row, text in enumerate(texts) if cells[row] and not text]
  if not lost:
    return by_id(ids, texts), ()
  note = (
    f"{len(lost)} reports have headings, but neither FINDINGS nor IMPRESSION, and count"
    f" as absent, first line {table.rows[lost[0]][0]}"
  )
  return by_id(ids, texts), (note,)


def by_id(ids: Sequence[str] | np.ndarray, texts: Iterable[str]) -> dict[str, str]:
  """Image -> its text, without those whose text is empty."""
  return {str(name): text for name, text in zip(ids, texts, strict=True) if text}


def _section(heading: str) -> str:
  """A heading in one spelling; `findings` and `impression` also misspelled."""
  name = " ".join(heading.casefold().split())
  if any(word in name for word in _NEITHER):
    return name
  if "conclusion" in name or "impression" in name:
    return "impression"
  if "finding" in name:
    return "findings"
  if near := difflib.get_close_matches(
    name, ("impression", "findings"), 1, cutoff=_MISSPELLED
  ):
    return near[0]
  if _VIEWS.search(name) and not re.search(r"comparison|indication|exam", name):
    return "findings"
  return name
