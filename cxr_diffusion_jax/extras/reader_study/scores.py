"""Scores of a reader study: the Turing test, agreement, and the findings seen.

key, answers of each reader -> Score, Score, ... -> scores.json, tables

An image that was shown twice counts once, except where its two answers are compared.
"pooled" treats all answers as independent: its intervals hold for these readers and are
too narrow for readers in general.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import itertools
import os

import numpy as np
import scipy.stats
from sklearn import metrics

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.extras.reader_study import agreement
from cxr_diffusion_jax.extras.reader_study import tables as reader_tables
from cxr_diffusion_jax.extras.reader_study.tables import Answers, StudyKey

# Raised when a field changes its meaning.
SCHEMA = 1

POOLED, REAL, GENERATED, ALL = "pooled", reader_tables.REAL, "generated", "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """One figure.

  Attributes:
    metric: accuracy, balanced_accuracy, sensitivity (synthetic images known as such),
      specificity (real ones), p_value (Fisher's, of guessing), realism (1 to 5),
      verdict_kappa, realism_kappa (quadratic weights), fleiss_kappa, repeat_agreement,
      repeat_kappa, finding_kappa or finding_f1.
  """

  metric: str
  value: float | None
  num: int  # answers behind it
  reader: str  # a name, "A and B", or `POOLED`
  path: str = ALL  # a path, `REAL`, `GENERATED` (all paths) or `ALL`
  finding: str = ""  # its name, "macro", or "" for none
  low: float | None = None  # of the 95 % interval
  high: float | None = None
  reason: str = ""  # why there is no value


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderScores:
  """All figures of a study."""

  readers: tuple[str, ...]  # in the order of their files
  paths: tuple[str, ...]
  num_images: dict[str, int]  # shown, of `REAL` and each path
  num_repeats: int  # shown twice
  scores: tuple[Score, ...]

  def find(
    self, metric: str, reader: str = POOLED, path: str = ALL, finding: str = ""
  ) -> Score | None:
    """The figure; None where it was not measured."""
    known = {(x.metric, x.reader, x.path, x.finding): x for x in self.scores}
    return known.get((metric, reader, path, finding))


def score(key: str | os.PathLike, answers: Sequence[str | os.PathLike]) -> ReaderScores:
  """Scores a study from its key.csv and the files of one or more readers.

  Raises:
    errors.InputError: a file that cannot be read or is not of this study, answers that
      are missing or of other values, or two files of one reader.
  """
  study = reader_tables.read_key(key)
  if not answers:
    raise errors.InputError("no answers", "a file for each reader")
  read = [reader_tables.read_answers(path, study) for path in answers]
  names = [reader.reader for reader in read]
  for name in names:
    if names.count(name) > 1 or name == POOLED:
      raise errors.InputError(
        f"{names.count(name)} files of the reader {name!r}",
        f"names that differ, and none of them {POOLED!r}",
        "correct the column 'reader'",
      )
  parts = (_turing, _realism, _agreement, _repeats, _findings)
  return ReaderScores(
    readers=tuple(names),
    paths=study.paths,
    num_images={name: len(_rows(study, name)) for name in (REAL, *study.paths)},
    num_repeats=int((study.repeat_of >= 0).sum()),
    scores=tuple(itertools.chain(*(part(study, read) for part in parts))),
  )


def to_json(scores: ReaderScores) -> artifacts.Json:
  """Plain values: what scores.json holds."""
  return {"schema": SCHEMA, **dataclasses.asdict(scores)}


def _turing(study: StudyKey, read: Sequence[Answers]) -> Iterator[Score]:
  rows = _rows(study, ALL)
  for name, readers in _each(read):
    said = np.concatenate([reader.synthetic[rows] for reader in readers])
    sets = np.tile(np.array(study.sets)[rows], len(readers))
    truth = sets != REAL
    right = said == truth
    yield _share("accuracy", right, name, ALL)
    specificity = _share("specificity", right[~truth], name, REAL)
    sensitivity = _share("sensitivity", right[truth], name, GENERATED)
    # Fisher's exact test: how often guesses with these shares do as well.
    table = [[int(((said == x) & (truth == y)).sum()) for x in (0, 1)] for y in (0, 1)]
    chance = float(np.asarray(scipy.stats.fisher_exact(table))[1])
    yield from (specificity, sensitivity)
    yield Score(metric="p_value", value=chance, num=len(said), reader=name)
    yield _balanced(specificity, sensitivity, ALL)
    for path in study.paths:
      of_path = _share("sensitivity", right[sets == path], name, path)
      yield from (of_path, _balanced(specificity, of_path, path))


def _balanced(specificity: Score, sensitivity: Score, path: str) -> Score:
  """The mean of both: 0.5 for guesses, however many images are real."""
  shares = [x.value for x in (specificity, sensitivity) if x.value is not None]
  return Score(
    metric="balanced_accuracy",
    value=sum(shares) / len(shares),
    num=specificity.num + sensitivity.num,
    reader=specificity.reader,
    path=path,
  )


def _realism(study: StudyKey, read: Sequence[Answers]) -> Iterator[Score]:
  """Mean grades; of several readers first by image, since images are the sample."""
  for name, readers in _each([x for x in read if x.realism is not None]):
    means = np.mean([x.realism for x in readers if x.realism is not None], axis=0)
    for path in (REAL, GENERATED, *study.paths):
      rows = _rows(study, path)
      value, low, high = agreement.mean(means[rows])
      yield Score(
        metric="realism",
        value=value,
        low=low,
        high=high,
        num=len(rows) * len(readers),
        reader=name,
        path=path,
      )


def _agreement(study: StudyKey, read: Sequence[Answers]) -> Iterator[Score]:
  rows = _rows(study, ALL)
  for a, b in itertools.combinations(read, 2):
    both = f"{a.reader} and {b.reader}"
    kappa = agreement.cohen_kappa(a.synthetic[rows], b.synthetic[rows])
    yield _kappa("verdict_kappa", kappa, len(rows), both)
    if a.realism is not None and b.realism is not None:
      kappa = agreement.cohen_kappa(a.realism[rows], b.realism[rows], "quadratic")
      yield _kappa("realism_kappa", kappa, len(rows), both)
  if len(read) > 2:
    said = np.sum([reader.synthetic[rows] for reader in read], axis=0)
    kappa = agreement.fleiss_kappa(np.stack([len(read) - said, said], axis=1))
    yield _kappa("fleiss_kappa", kappa, len(rows) * len(read), POOLED)


def _repeats(study: StudyKey, read: Sequence[Answers]) -> Iterator[Score]:
  second = np.flatnonzero(study.repeat_of >= 0)
  for name, readers in _each(read if len(second) else ()):
    before, after = (
      np.concatenate([reader.synthetic[rows] for reader in readers])
      for rows in (study.repeat_of[second], second)
    )
    yield _share("repeat_agreement", before == after, name, ALL)
    kappa = agreement.cohen_kappa(before, after)
    yield _kappa("repeat_kappa", kappa, len(before), name)


def _findings(study: StudyKey, read: Sequence[Answers]) -> Iterator[Score]:
  """Findings seen against those requested, and in real images against their labels."""
  score_fns = {"finding_kappa": agreement.cohen_kappa, "finding_f1": metrics.f1_score}
  for name, readers in _each([x for x in read if x.findings is not None]):
    for path in (REAL, GENERATED, *study.paths):
      rows = [row for row in _rows(study, path) if study.known[row]]
      seen = [x.findings[rows] for x in readers if x.findings is not None]
      requested = np.tile(study.findings[rows], (len(readers), 1))
      for metric, score_fn in score_fns.items() if rows else ():
        where = {"metric": metric, "num": len(requested), "reader": name, "path": path}
        yield from _by_finding(score_fn, requested, np.concatenate(seen), where)


def _by_finding(
  score_fn: Callable[[np.ndarray, np.ndarray], float | None],
  requested: np.ndarray,
  seen: np.ndarray,
  where: artifacts.Json,
) -> Iterator[Score]:
  values = []
  for column, finding in enumerate(reader_tables.VOCABULARY):
    known = np.isfinite(requested[:, column])
    wanted, value = requested[known, column].astype(np.uint8), None
    reason = f"in {'all' if wanted.any() else 'none'} of the images"
    if 0 < wanted.sum() < len(wanted):
      value, reason = score_fn(wanted, seen[known, column]), ""
      values.append(value)
    yield Score(value=value, reason=reason, finding=finding, **where)
  macro = float(np.mean(values)) if values else None
  reason = "" if values else "no finding is in some images and not in others"
  yield Score(value=macro, reason=reason, finding="macro", **where)


def _share(metric: str, hits: np.ndarray, reader: str, path: str) -> Score:
  num = len(hits)
  value, low, high = agreement.share(int(hits.sum()), num)
  return Score(
    metric=metric, value=value, low=low, high=high, num=num, reader=reader, path=path
  )


def _kappa(metric: str, value: float | None, num: int, reader: str) -> Score:
  reason = "" if value is not None else "all answers are alike"
  return Score(metric=metric, value=value, num=num, reader=reader, reason=reason)


def _each(read: Sequence[Answers]) -> Iterator[tuple[str, Sequence[Answers]]]:
  """Each reader, then all of them together."""
  yield from ((reader.reader, [reader]) for reader in read)
  if read:
    yield POOLED, read


def _rows(study: StudyKey, path: str) -> np.ndarray:
  """Rows of first showings of a path, `REAL`, `GENERATED` or `ALL`."""
  sets = np.array(study.sets)
  masks = {ALL: sets != "", REAL: sets == REAL, GENERATED: sets != REAL}
  return np.flatnonzero((study.repeat_of < 0) & masks.get(path, sets == path))
