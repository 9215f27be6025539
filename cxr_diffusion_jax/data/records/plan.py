"""Decides, before any image is opened, which rows the records of a dataset will hold.

Source -> Table -> rows with an image, in train | validation | test | expert -> hashes
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import pathlib

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import dataset_table, reports, splits
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import base

# Raise it whenever records of an older program can no longer be read or trusted.
FORMAT = 3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
  """The rows that records are to hold.

  Attributes:
    rows: split -> [n] indices into `table` of rows with an image, ascending.
    absent: ids of rows left out because they have no image.
  """

  table: base.Table
  rows: dict[str, np.ndarray]
  absent: tuple[str, ...]

  def __len__(self) -> int:
    return sum(map(len, self.rows.values()))

  def paths(self, rows: np.ndarray) -> list[str]:
    """Where the images of some rows are."""
    return [self.table.image[row] or "" for row in rows.tolist()]


def make_plan(settings: DataSettings) -> Plan:
  """Reads the source's table and assigns its rows to splits.

  Raises:
    InputError: the source is not usable; rows without an image, unless
      `settings.missing` is `drop`; no row with an image; no row to train on.
  """
  table = dataset_table.read_table(settings)
  has_image = np.array([path is not None for path in table.image], bool)
  absent = table.id[~has_image]
  if absent.size:
    _check_absent(settings, table, absent)
  # Before rows are dropped: splits must not depend on which files exist.
  split = splits.assign_splits(
    table.id,
    table.patient,
    official=_official(settings, table),
    expert_ids=table.expert_test_ids,
    validation_fraction=settings.validation_fraction,
    train_on_expert=settings.train_on_expert,
  )
  kept = has_image & _has_report(settings, table)
  rows = {name: np.flatnonzero(kept & (split == name)) for name in splits.SPLITS}
  if not rows["train"].size and _official(settings, table) is None:
    raise errors.InputError(
      f"the hash of patients puts none of the {has_image.sum()} images of"
      f" {settings.root} into train",
      "more patients, or a published split",
    )
  if not rows["train"].size:
    raise errors.InputError(
      f"none of the {has_image.sum()} images of {settings.root} falls in train",
      "images of the official training list",
      "--config.data.split=hash splits by patient without the lists",
    )
  return Plan(table=table, rows=rows, absent=tuple(absent.tolist()))


def check_reports(settings: DataSettings, plan: Plan) -> None:
  """Raises InputError if a row has no report."""
  rows = np.concatenate(list(plan.rows.values()))
  ids = plan.table.id[rows].tolist()
  texts = plan.table.report or {}
  reports.check(ids, [texts.get(name, "") for name in ids], settings.root)


def log_plan(settings: DataSettings, plan: Plan) -> None:
  """Logs which rows are left out and how the others are split."""
  if plan.absent:
    logging.warning("%s: left out", _absent(settings, plan.table, plan.absent))
  if plan.table.num_unlisted:
    logging.warning(
      "%d images are not in %s", plan.table.num_unlisted, plan.table.origin
    )
  for note in plan.table.notes:
    logging.info("%s", note)
  logging.info("split %s", _split_note(settings, plan))
  logging.info("findings present, absent, unknown: %s", _findings_note(plan))


def check_format(path: pathlib.Path, version: int) -> None:
  """Raises errors.InputError for records of a newer version."""
  if version > FORMAT:
    raise errors.InputError(
      f"{path} has format {version}",
      f"format {FORMAT} or older",
      "update cxr_diffusion_jax to the version that made these records, or name"
      " another --config.data.records_dir",
    )


def settings_hash(settings: DataSettings) -> str:
  """Hash of how images become squares."""
  return digest(json.dumps([settings.image_size, settings.resize]).encode())


def ids_hash(table: base.Table, rows: dict[str, np.ndarray]) -> str:
  """Hash of the ids of every split, in row order."""
  lines = [f"{name} {','.join(table.id[rows[name]])}\n" for name in rows]
  return digest("".join(lines).encode())


def labels_hash(table: base.Table, rows: np.ndarray) -> str:
  """Hash of all that is known of some rows but their ids and images."""
  columns = (
    table.findings.astype("<f4"),
    table.age.astype("<f4"),
    table.sex.astype("i1"),
    table.view.astype("i1"),
    table.patient.astype("<i4"),
  )
  parts = [json.dumps(table.vocabulary).encode()]
  parts += [column[rows].tobytes() for column in columns]
  ids = table.id[rows].tolist()
  for by_id in (table.boxes, table.expert):
    for number, image_id in enumerate(ids):
      if image_id in by_id:
        parts += [str(number).encode(), by_id[image_id].astype("<f4").tobytes()]
  if table.report is not None:
    parts.append(json.dumps([table.report.get(image_id) for image_id in ids]).encode())
  return digest(*parts)


def digest(*parts: bytes) -> str:
  """32 hexadecimal digits of some bytes."""
  hasher = hashlib.blake2b(digest_size=16)
  for part in parts:
    hasher.update(part)
    hasher.update(len(part).to_bytes(8, "little"))
  return hasher.hexdigest()


def _absent(
  settings: DataSettings, table: base.Table, absent: np.ndarray | Sequence[str]
) -> str:
  return (
    f"{len(absent)} of the {len(table)} images named in {table.origin} are absent from"
    f" {settings.root} (at {settings.image_size} pixels or more),"
    f" first {', '.join(absent[:3])}"
  )


def _check_absent(
  settings: DataSettings, table: base.Table, absent: np.ndarray
) -> None:
  what = _absent(settings, table, absent)
  if absent.size == len(table):
    raise errors.InputError(
      f"{what}: no name joins",
      "images with the names that the table gives",
      "names of files must end in .png, .jpg, .jpeg, .dcm or .dicom",
    )
  if settings.missing == "error":
    raise errors.InputError(
      what,
      "an image for every row",
      "copy them there (as .png, .jpg, .jpeg, .dcm or .dicom), or leave these rows out:"
      " --config.data.missing=drop",
    )


def _has_report(settings: DataSettings, table: base.Table) -> np.ndarray:
  """[n] bool, rows whose text is there; all unless reports are asked for."""
  if settings.prompts != "report" or settings.missing == "error" or not table.report:
    # Without reports at all, writing the texts says so.
    return np.ones(len(table), bool)
  reported = np.array([name in table.report for name in table.id.tolist()])
  if not reported.all():
    logging.log_first_n(
      logging.WARNING,
      "%d images without a report are left out",
      1,
      np.count_nonzero(~reported),
    )
  return reported


def _split_note(settings: DataSettings, plan: Plan) -> str:
  """Which split it is and why, with its counts."""
  counts = ", ".join(f"{name} {len(rows):,}" for name, rows in plan.rows.items())
  if _official(settings, plan.table) is not None:
    return f"as published ({plan.table.split_note}): {counts}"
  asked = settings.split == "hash"
  why = "config.data.split=hash" if asked else "there is no published split"
  return f"by patient hash, since {why}: {counts}"


def _findings_note(plan: Plan) -> str:
  """How many images of all splits have each finding present, absent and unknown."""
  rows = np.concatenate(list(plan.rows.values()))
  findings = plan.table.findings[rows]
  present, absent = (findings == 1).sum(axis=0), (findings == 0).sum(axis=0)
  parts = [
    f"{name} {one:,}, {none:,}, {len(rows) - one - none:,}"
    for name, one, none in zip(plan.table.vocabulary, present, absent, strict=True)
  ]
  return "; ".join(parts) or "none is known of any image"


def _official(settings: DataSettings, table: base.Table) -> np.ndarray | None:
  if settings.split == "hash":
    return None
  if table.official is None and settings.split == "official":
    raise errors.InputError(
      f"config.data.split=official, but {settings.root} lacks its lists",
      "the files of the published split, such as test_list.txt",
      "--config.data.split=hash splits by patient without the lists",
    )
  return table.official
