"""Labelled images of a run's dataset, as whom a synthetic image is to show.

split, the run's path --rows_of--> Rows; quota --matching--> rows; row --> Subject
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.image_sets.image_set import SEXES, VIEWS
from cxr_diffusion_jax.run.run import Run
from cxr_diffusion_jax.sampling import conditions as conditions_lib
from cxr_diffusion_jax.synthesis import balance
from cxr_diffusion_jax.synthesis import plan as plan_lib

# Above the numbers of NIH's patients, so that no synthetic one is taken for a real one.
FIRST_PATIENT = 90_000_001


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
  """The person that an image is to show, and its labels.

  Attributes:
    findings: all that are present.
    unknown: those that are neither known to be present nor to be absent.
    age: years; None if unknown.
    sex: 'F', 'M' or '' if unknown.
    view: 'PA', 'AP' or '' if unknown.
    patient: number of the synthetic patient; images whose conditions come from one
      real patient share it.
    condition: id of the real image that the condition was made from; '' for none.
  """

  findings: tuple[str, ...]
  age: float | None
  sex: str
  view: str
  patient: int
  condition: str = ""
  unknown: tuple[str, ...] = ()

  def row(self, vocabulary: Sequence[str]) -> np.ndarray:
    """Findings [k] float32: 1 present, 0 absent, nan unknown."""
    values = [
      np.nan if name in self.unknown else name in self.findings for name in vocabulary
    ]
    return np.array(values, np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
  """Labelled images that conditions or findings are taken from; n rows.

  Attributes:
    ids: [n] str, of the images whose records hold the condition.
    shown: [n] str, of the images that the conditions were made from.
    labels: findings [n k], sex, view, age and patient [n], of what is asked for.
  """

  ids: np.ndarray
  shown: np.ndarray
  labels: Mapping[str, np.ndarray]
  vocabulary: tuple[str, ...]

  def matching(self, quota: plan_lib.Quota) -> np.ndarray:
    """Indices of the rows that a quota asks for.

    Their findings are those of the quota; others are absent or unknown. No Finding
    needs rows where all are known to be absent.
    """
    findings = np.asarray(self.labels["findings"], np.float64)
    fits = np.ones(len(findings), bool)
    if quota.findings is not None:
      fits = plan_lib.showing(findings, quota.findings, self.vocabulary)
    if quota.sex:
      fits &= self.labels["sex"] == SEXES.index(quota.sex)
    if quota.view:
      fits &= self.labels["view"] == VIEWS.index(quota.view)
    if quota.ages:
      low, high = quota.ages
      fits &= (self.labels["age"] >= low) & (self.labels["age"] < high + 1)
    return np.flatnonzero(fits)

  def subject(self, row: int, patient: int) -> Subject:
    """The labels of a row."""
    sex, view = int(self.labels["sex"][row]), int(self.labels["view"][row])
    age = float(self.labels["age"][row])
    findings = np.asarray(self.labels["findings"][row], np.float64)
    named = zip(self.vocabulary, findings, strict=True)
    return Subject(
      findings=labels_lib.names_of(findings, self.vocabulary),
      unknown=tuple(name for name, value in named if np.isnan(value)),
      age=age if np.isfinite(age) else None,
      sex=SEXES[sex] if sex >= 0 else "",
      view=VIEWS[view] if view >= 0 else "",
      patient=patient,
      condition=str(self.shown[row]),
    )


def reads_images(run: Run) -> bool:
  """Whether the run's condition is made from an image."""
  return bool(run.needs.reference_columns)


def rows_of(run: Run, split: str) -> Rows:
  """The rows of a split that a run's conditions can be taken from.

  Their labels are those of the image that the condition is made from; of a path that
  reads a text too, those that the text states.

  Raises:
    errors.InputError: the dataset is gone, or no such split.
  """
  source, records = run.dataset.source(split), run.dataset.records
  places = np.flatnonzero(source.reference_row >= 0)
  own, shown = source.row[places], source.reference_row[places]
  ids, fields = records.ids(split), records.fields(split)
  asked = own if run.needs.text_columns else shown
  return Rows(
    ids=ids[own],
    shown=ids[shown],
    labels={name: fields[name][asked] for name in (*conditions_lib.LABELS, "patient")},
    vocabulary=records.vocabulary,
  )


def balanced(run: Run, split: str, num: int) -> plan_lib.Plan:
  """The balanced plan of a run, see `balance.balanced`.

  Its combinations are those of the training labels; of paths that read an image, those
  of images of the split, which conditions are taken from, with one finding or none.

  Raises:
    errors.InputError: the dataset is gone, no such split, or too small a number.
  """
  if reads_images(run):
    labels = rows_of(run, split).labels
    return balance.balanced(labels, run.card.vocabulary, num, of_images=True)
  labels = run.dataset.records.fields("train")
  return balance.balanced(labels, run.card.vocabulary, num)
