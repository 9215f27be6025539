"""The table of a synthetic dataset: the labels that were asked for, one row an image.

NIH's findings  -> Data_Entry_2017.csv, for `config.data.source=nih`
other findings  -> labels.csv, one column each, for `config.data.source=table`

Columns that no image needs are left out. Unknown labels stay unknown. All images are
for training: none is ever in a test split.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cxr_diffusion_jax.data import csv_table, csv_text
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.synthesis.rows import Subject

NIH, TRAINING, GENERAL = "Data_Entry_2017.csv", "train_val_list.txt", "labels.csv"
NAMES = (NIH, TRAINING, GENERAL)

CONDITION = "Condition"

_Columns = Mapping[str, Sequence[object]]


def is_nih(vocabulary: Sequence[str]) -> bool:
  """Whether NIH's table has a name for each finding."""
  known = {labels_lib.plain(name) for name in _every()}
  return {labels_lib.plain(name) for name in vocabulary} <= known


def flags(vocabulary: Sequence[str]) -> str:
  """The flags that read the dataset in FOLDER."""
  if is_nih(vocabulary):
    return "--config.data.root=FOLDER"
  return (
    "--config.data.source=table --config.data.root=FOLDER"
    f' --config.data.columns="findings={"|".join(vocabulary)}"'
  )


def make(
  files: Sequence[str],
  subjects: Sequence[Subject],
  vocabulary: Sequence[str],
  *,
  keep_ids: bool,
) -> dict[str, str]:
  """Returns the table, and NIH's list of training images: name -> text.

  Args:
    keep_ids: whether the table names the real image of each condition.
  """
  nih = is_nih(vocabulary)
  make_columns = _nih if nih else _general
  columns = {**make_columns(files, subjects, vocabulary)}
  conditions = [subject.condition for subject in subjects]
  if keep_ids and any(conditions):
    columns[CONDITION] = conditions
  rows = zip(*columns.values(), strict=True)
  text = csv_text.csv_text([tuple(columns), *rows])
  if not nih:
    return {GENERAL: text}
  return {NIH: text, TRAINING: "".join(f"{file}\n" for file in files)}


def _nih(
  files: Sequence[str], subjects: Sequence[Subject], vocabulary: Sequence[str]
) -> dict[str, Sequence[object]]:
  """NIH's columns, and that of unknown labels where there are any.

  With that column, NIH's labels that the vocabulary lacks are unknown too.
  """
  columns: dict[str, Sequence[object]] = {
    "Image Index": files,
    "Finding Labels": [
      "|".join(one.findings) or ("" if one.unknown else labels_lib.NO_FINDING)
      for one in subjects
    ],
    "Follow-up #": [int(csv_table.stem(file).rpartition("_")[2]) for file in files],
    "Patient ID": [one.patient for one in subjects],
    "Patient Age": list(map(_age, subjects)),
    "Patient Sex": [one.sex for one in subjects],
    "View Position": [one.view for one in subjects],
  }
  partly = any(one.unknown for one in subjects)
  if partly or tuple(vocabulary) != metadata.FINDINGS:
    known = {labels_lib.plain(name) for name in vocabulary}
    others = [name for name in _every() if labels_lib.plain(name) not in known]
    columns[metadata.UNKNOWN_LABELS] = [
      "|".join([*one.unknown, *others]) for one in subjects
    ]
  return columns


def _general(
  files: Sequence[str], subjects: Sequence[Subject], vocabulary: Sequence[str]
) -> dict[str, Sequence[object]]:
  """The columns of the source `table`, and one for each finding: 1, 0 or nothing."""
  findings = np.array([one.row(vocabulary) for one in subjects]).T
  return {
    "image": files,
    "patient": [one.patient for one in subjects],
    "age": list(map(_age, subjects)),
    "sex": [one.sex for one in subjects],
    "view": [one.view for one in subjects],
    "split": ["train"] * len(subjects),
    **{
      name: ["" if np.isnan(value) else int(value) for value in column]
      for name, column in zip(vocabulary, findings, strict=True)
    },
  }


def _every() -> tuple[str, ...]:
  return (*metadata.FINDINGS, *metadata.MORE_FINDINGS)


def _age(subject: Subject) -> str:
  return "" if subject.age is None else f"{subject.age:g}"
