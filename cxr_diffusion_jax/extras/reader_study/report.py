"""The scores of a reader study as tables in Markdown.

ReaderScores -> Turing test by reader, by path; agreement; findings -> text
"""

from collections.abc import Iterator, Sequence

from cxr_diffusion_jax.evaluation.measurement import number
from cxr_diffusion_jax.extras.reader_study import tables as reader_tables
from cxr_diffusion_jax.extras.reader_study.scores import (
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
  for reader in _readers(scores):
    cells = [
      scores.find("accuracy", reader),
      scores.find("balanced_accuracy", reader),
      scores.find("p_value", reader),
      scores.find("sensitivity", reader, GENERATED),
      scores.find("specificity", reader, REAL),
      scores.find("repeat_agreement", reader),
      scores.find("repeat_kappa", reader),
    ]
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
    if path == REAL:
      held = _other(scores.find("specificity", path=REAL))
    else:
      held = _cell(scores.find("sensitivity", path=path))
    balanced = _cell(scores.find("balanced_accuracy", path=path))
    realism = _cell(scores.find("realism", path=path))
    yield _row(path, str(scores.num_images[path]), held, balanced, realism)


def _agreement(scores: ReaderScores) -> Iterator[str]:
  if len(scores.readers) < 2:
    return
  yield from _head("Agreement of readers", ["readers", "kappa, real or synthetic"])
  for score in scores.scores:
    if score.metric in ("verdict_kappa", "fleiss_kappa"):
      every = score.metric == "fleiss_kappa"
      yield _row("all (Fleiss)" if every else score.reader, _cell(score))
  graded = [score for score in scores.scores if score.metric == "realism_kappa"]
  yield from (
    _row(f"{score.reader}, realism (weighted)", _cell(score)) for score in graded
  )


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
    cells = [
      f"{_cell(kappa)}, {_cell(f1)}"
      if kappa and kappa.value is not None
      else _cell(kappa)
      for kappa, f1 in zip(kappas, f1s, strict=True)
    ]
    yield _row(name, *cells)
  if undefined:
    yield ""
    yield f"Undefined, since none or all images show it: {', '.join(undefined)}."


def _readers(scores: ReaderScores) -> Sequence[str]:
  return (*scores.readers, POOLED) if len(scores.readers) > 1 else scores.readers


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


def _other(score: Score | None) -> str:
  """The complement of a share."""
  ends = score and (score.value, score.high, score.low)
  if not ends or None in ends:
    return _cell(score)
  value, low, high = (number(1 - end) for end in ends if end is not None)
  return f"{value} ({low} to {high})"
