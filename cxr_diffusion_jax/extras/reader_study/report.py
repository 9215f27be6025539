"""The scores of a reader study as tables in Markdown.

ReaderScores -> Turing test by reader, by path; agreement; findings -> text
"""

from collections.abc import Iterator, Sequence
import dataclasses

from cxr_diffusion_jax.evaluation.measurement import number
from cxr_diffusion_jax.extras.reader_study import tables as reader_tables
from cxr_diffusion_jax.extras.reader_study.scores import (
  ALL,
  GENERATED,
  POOLED,
  REAL,
  ReaderScores,
  Score,
)


def text(scores: ReaderScores) -> str:
  """Returns all tables and the meaning of their figures."""
  shown = ", ".join(f"{num} {name}" for name, num in scores.num_images.items())
  lines = [
    f"{len(scores.readers)} readers; images: {shown}; {scores.num_repeats} of them"
    " shown twice. Intervals of 95 %.",
    *_by_reader(scores),
    *_by_path(scores),
    *_agreement(scores),
    *_findings(scores),
  ]
  return "\n".join([*lines, ""])


def _by_reader(scores: ReaderScores) -> Iterator[str]:
  columns = ["reader", "accuracy", "balanced", "p", "synthetic correct", "real correct"]
  columns += ["same answer twice", "kappa"]
  yield from _head("Turing test", columns)
  paths = {"sensitivity": GENERATED, "specificity": REAL}
  figures = ("accuracy", "balanced_accuracy", "p_value", *paths)
  figures += ("repeat_agreement", "repeat_kappa")
  pooled = [POOLED] if len(scores.readers) > 1 else []
  for reader in (*scores.readers, *pooled):
    cells = (scores.find(name, reader, paths.get(name, ALL)) for name in figures)
    yield _row(reader, *map(_cell, cells))
  yield ""
  yield (
    "Balanced: the mean of both shares of correct answers, 0.5 for guesses. p: how"
    " often guesses would do as well (Fisher's exact test). Pooled answers are treated"
    " as independent: their intervals hold for these readers, not for readers in"
    " general."
  )


def _by_path(scores: ReaderScores) -> Iterator[str]:
  yield from _head(
    "Images, all readers",
    ["images", "number", "judged synthetic", "balanced accuracy", "realism, 1 to 5"],
  )
  for path in (REAL, *scores.paths):
    judged = scores.find("sensitivity", path=path)
    right = scores.find("specificity", path=REAL)
    if path == REAL and right:
      ends = (right.value, right.high, right.low)
      value, low, high = (None if end is None else 1 - end for end in ends)
      judged = dataclasses.replace(right, value=value, low=low, high=high)
    others = [scores.find(name, path=path) for name in ("balanced_accuracy", "realism")]
    yield _row(path, str(scores.num_images[path]), *map(_cell, (judged, *others)))


def _agreement(scores: ReaderScores) -> Iterator[str]:
  if len(scores.readers) < 2:
    return
  yield from _head("Agreement of readers", ["readers", "kappa, real or synthetic"])
  for name, title in (
    ("verdict_kappa", "{}"),
    ("fleiss_kappa", "all (Fleiss)"),
    ("realism_kappa", "{}, realism (weighted)"),
  ):
    for score in scores.scores:
      if score.metric == name:
        yield _row(title.format(score.reader), _cell(score))


def _findings(scores: ReaderScores) -> Iterator[str]:
  paths = [
    path
    for path in (REAL, *scores.paths)
    if scores.find("finding_kappa", path=path, finding="macro")
  ]
  if not paths:
    return
  yield from _head(
    "Findings seen against findings requested (in real images: labelled)",
    ["finding", *(f"{path}: kappa, F1" for path in paths)],
  )
  undefined = []
  for finding in (*reader_tables.VOCABULARY, "macro"):
    name = finding.replace("_", " ")
    kappas, f1s = (
      [scores.find(metric, path=path, finding=finding) for path in paths]
      for metric in ("finding_kappa", "finding_f1")
    )
    if all(kappa is None or kappa.value is None for kappa in kappas):
      undefined.append(name)
      continue
    # Both are undefined for the same reason.
    yield _row(
      name,
      *(
        f"{_cell(kappa)}, {_cell(f1)}" if kappa and not kappa.reason else _cell(kappa)
        for kappa, f1 in zip(kappas, f1s, strict=True)
      ),
    )
  if undefined:
    yield ""
    yield f"Undefined, since none or all images show it: {', '.join(undefined)}."


def _head(title: str, columns: Sequence[str]) -> list[str]:
  return ["", f"### {title}", "", _row(*columns), "|" + "---|" * len(columns)]


def _row(*cells: str) -> str:
  return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(score: Score | None) -> str:
  if score is None:
    return "-"
  if score.value is None:
    return f"undefined: {score.reason}"
  if score.low is None or score.high is None:
    return number(score.value)
  return f"{number(score.value)} ({number(score.low)} to {number(score.high)})"
