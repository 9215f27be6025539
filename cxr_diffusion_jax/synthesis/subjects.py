"""Whom each image of a plan is to show, and the condition that asks for it.

paths that read labels or text:  quota --> Subject --> findings or a prompt
paths that read an image:        quota --> a row of a split with these labels --> its
                                 condition, and its labels as Subject

Draw d of image i depends on the plan, the seed, i and d alone.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Protocol

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data import prompts
from cxr_diffusion_jax.run.run import Run
from cxr_diffusion_jax.sampling import conditions as conditions_lib
from cxr_diffusion_jax.sampling import request as request_lib
from cxr_diffusion_jax.synthesis import plan as plan_lib
from cxr_diffusion_jax.synthesis import rows as rows_lib
from cxr_diffusion_jax.synthesis.rows import FIRST_PATIENT, Rows, Subject

_WARNINGS = {
  "train": "the model may copy its training images",
  "test": "nothing that is trained on the dataset may be evaluated on it",
}


class SubjectSource(Protocol):
  """Chooses subjects, and builds their conditions."""

  def subjects(self, numbers: Sequence[int], draw: int) -> list[Subject]:
    """The subjects of images, in their draw number `draw`."""
    ...

  def conditions(
    self, subjects: Sequence[Subject], numbers: Sequence[int], draw: int
  ) -> request_lib.Conditions:
    """Builds one condition for each subject of `subjects(numbers, draw)`."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OfLabels:
  """Subjects of paths whose condition is made from labels, or from a prompt.

  Attributes:
    rows: where findings that a quota leaves open are taken from; None if no quota does.
  """

  run: Run
  plan: plan_lib.Plan
  seed: int
  rows: Rows | None = None

  def subjects(self, numbers: Sequence[int], draw: int) -> list[Subject]:
    """See `SubjectSource`."""
    return [self._subject(number, draw) for number in numbers]

  def conditions(
    self, subjects: Sequence[Subject], numbers: Sequence[int], draw: int
  ) -> request_lib.Conditions:
    """See `SubjectSource`."""
    builder, vocabulary = self._builder, self.run.card.vocabulary
    if "prompt" in builder.needs.inputs:
      texts = tuple(
        prompts.prompt(
          labels_lib.stated(subject.row(vocabulary), vocabulary),
          vocabulary=vocabulary,
          view=subject.view or None,
          age=subject.age,
          sex=subject.sex or None,
          seed=f"{self.seed}/{number}/{draw}",
        )
        for subject, number in zip(subjects, numbers, strict=True)
      )
      return builder.build(request_lib.Request(prompts=texts), len(texts))
    parts = [
      builder.build(
        request_lib.Request(
          findings=(labels_lib.text_of(subject.row(vocabulary), vocabulary),),
          age=subject.age,
          sex=subject.sex,
          view=subject.view,
        ),
        1,
      )
      for subject in subjects
    ]
    return request_lib.join_rows(parts)

  @functools.cached_property
  def _builder(self) -> conditions_lib.ConditionBuilder:
    return conditions_lib.ConditionBuilder(run=self.run)

  def _subject(self, number: int, draw: int) -> Subject:
    quota = self.plan.quotas[self.plan.place(number)[0]]
    rng = np.random.default_rng([self.seed, number, draw])
    findings, unknown = quota.findings, ()
    if findings is None:
      assert self.rows is not None
      row = int(rng.choice(self.rows.matching(quota)))
      labelled = self.rows.subject(row, 0)
      findings, unknown = labelled.findings, labelled.unknown
    age = (
      None if quota.ages is None else float(rng.integers(*quota.ages, endpoint=True))
    )
    return Subject(
      findings=findings,
      unknown=unknown,
      age=age,
      sex=quota.sex,
      view=quota.view,
      patient=FIRST_PATIENT + number,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OfRows:
  """Subjects of paths whose condition is made from an image: rows of a split.

  The rows of a quota are used in turn, in an order that the seed chooses.

  Attributes:
    orders: rows of each quota, in their order of use.
    patients: [n] numbers of the synthetic patients of the rows.
  """

  run: Run
  plan: plan_lib.Plan
  rows: Rows
  orders: Sequence[np.ndarray]
  patients: np.ndarray

  def subjects(self, numbers: Sequence[int], draw: int) -> list[Subject]:
    """See `SubjectSource`."""
    rows = [self._row(number, draw) for number in numbers]
    return [self.rows.subject(row, int(self.patients[row])) for row in rows]

  def conditions(
    self, subjects: Sequence[Subject], numbers: Sequence[int], draw: int
  ) -> request_lib.Conditions:
    """See `SubjectSource`."""
    del subjects
    ids = tuple(str(self.rows.ids[self._row(number, draw)]) for number in numbers)
    builder = conditions_lib.ConditionBuilder(run=self.run)
    return builder.build(request_lib.Request(image_ids=ids), len(ids))

  def _row(self, number: int, draw: int) -> int:
    quota, place = self.plan.place(number)
    order = self.orders[quota]
    return int(order[(place + draw * self.plan.quotas[quota].num) % len(order)])


def open_source(
  run: Run, plan: plan_lib.Plan, *, split: str, seed: int
) -> SubjectSource:
  """Opens the source of a run's subjects.

  Raises:
    errors.InputError: a quota that no row of the split fits, where rows are needed.
  """
  if rows_lib.reads_images(run):
    if split in _WARNINGS:
      logging.warning("conditions come from the split %s: %s", split, _WARNINGS[split])
    rows = rows_lib.rows_of(run, split)
    matching = _matching(rows, plan, plan.quotas, split)
    orders = [
      np.random.default_rng([seed, place]).permutation(matching[place])
      for place in range(len(plan.quotas))
    ]
    unique, ranks = np.unique(rows.labels["patient"], return_inverse=True)
    # In another order than the real patients' numbers.
    mixed = np.random.default_rng([seed, len(plan.quotas)]).permutation(len(unique))
    patients = FIRST_PATIENT + mixed[ranks]
    return OfRows(run=run, plan=plan, rows=rows, orders=orders, patients=patients)
  rows = None
  unplanned = [quota for quota in plan.quotas if quota.findings is None]
  if unplanned:
    rows = rows_lib.rows_of(run, split)
    _matching(rows, plan, unplanned, split)
  return OfLabels(run=run, plan=plan, seed=seed, rows=rows)


def _matching(
  rows: Rows, plan: plan_lib.Plan, quotas: Sequence[plan_lib.Quota], split: str
) -> list[np.ndarray]:
  matching = [rows.matching(quota) for quota in quotas]
  lacking = [
    quota.title for quota, fit in zip(quotas, matching, strict=True) if not len(fit)
  ]
  if lacking:
    raise errors.InputError(
      f"{len(lacking)} of {len(plan.quotas)} quotas fit none of the {len(rows.ids)}"
      f" images of split {split!r}, first {lacking[0]!r}",
      "quotas with images in the split: this run's conditions are taken from them",
      "leave attributes open, or name another split",
    )
  return matching
