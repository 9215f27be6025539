"""Records of a dataset: images and labels, made once, with random read access.

plan -> parts (decode + resize in threads -> ArrayRecord) -> rows.npz, files.npz
     -> statistics -> records.json, written last: without it there are no records

Records match a dataset as long as its ids, labels and images are those that they were
made from. Ids and labels are compared in full; images by their size, and by the
hash of their pixels where that changed.
"""

from collections.abc import Iterator, Mapping
import contextlib
import functools
import os

from absl import logging
import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, disk
from cxr_diffusion_jax.data import dataset_table, splits
from cxr_diffusion_jax.data.records import files as files_lib
from cxr_diffusion_jax.data.records import moved, store
from cxr_diffusion_jax.data.records import parts as parts_lib
from cxr_diffusion_jax.data.records import plan as plan_lib
from cxr_diffusion_jax.data.records import statistics as statistics_lib
from cxr_diffusion_jax.data.records.store import FIELDS, Records, RecordSource
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.progress import Progress, no_progress

__all__ = (
  "FIELDS",
  "RecordSource",
  "Records",
  "look_whole",
  "open_records",
  "prepare_records",
  "prepare_shard",
  "vocabulary",
)

MAX_STATISTICS_IMAGES = 512


def open_records(settings: DataSettings) -> Records | None:
  """Opens records if they are there and belong to the dataset as it is now.

  Where the dataset is gone, records made with the same settings are opened as they are.

  Returns:
    None when they are missing, unfinished, of an earlier version, made from other
    content, or lack rows although `settings.missing` is `error`.

  Raises:
    InputError: the dataset is not usable, or the records are of a newer version.
  """
  description = _read_description(settings)
  return None if description is None else _check(settings, description)[0]


def look_whole(settings: DataSettings) -> bool:
  """Whether there are records of the same settings, of whatever content."""
  description = _read_description(settings)
  mark = plan_lib.settings_hash(settings)
  return description is not None and description["fingerprints"]["settings"] == mark


def vocabulary(settings: DataSettings) -> tuple[str, ...]:
  """The findings of a dataset; of its records where it is gone; opens no image.

  Raises:
    InputError: no such source.
  """
  description = None
  if not settings.exists:
    description = _read_description(settings)
  if description is not None:
    return tuple(description["vocabulary"])
  return dataset_table.vocabulary(settings)


def prepare_shard(
  settings: DataSettings,
  shard: tuple[int, int],
  *,
  needs_reports: bool = False,
  progress: Progress = no_progress,
) -> int:
  """Makes a share of the records, while other processes make other shares.

  Once all are made, `prepare_records` joins them.

  Args:
    shard: (p, n): this process makes every nth part, from part p on.

  Returns:
    The number of parts that other processes have not made yet.

  Raises:
    InputError: as `prepare_records`.
  """
  moved.settle(settings)
  if open_records(settings) is not None:
    return 0
  plan = _make_plan(settings, needs_reports)
  with _writing(settings):
    parts_lib.make_parts(plan, settings, shard=shard, progress=progress)
  return parts_lib.num_missing(plan, settings)


def prepare_records(
  settings: DataSettings,
  *,
  needs_reports: bool = False,
  progress: Progress = no_progress,
) -> Records:
  """Makes the records of a dataset, or opens them; resumes where a killed run stopped.

  Args:
    needs_reports: refuse rows without a report before any image is read.

  Raises:
    InputError: the dataset is not usable (see `plan.make_plan`), an image is damaged
      and `settings.missing` is not `drop`, or the folder cannot take the records.
  """
  moved.settle(settings)
  description = _read_description(settings)
  plan = None
  if description is not None:
    records, plan, files = _check(settings, description)
    if records is not None:
      if files is not None and plan is not None:
        _note_files(settings, description, files)
        if plan.table.source is not None and "sources" not in description:
          index = store.index_of(plan, _kept(plan, files))
          records = store.add_sources(records, description, index, settings)
      return records
  plan = _make_plan(settings, needs_reports, plan)
  with _writing(settings):
    parts = parts_lib.make_parts(plan, settings, progress=progress)
    return _finish(settings, plan, parts)


def _make_plan(
  settings: DataSettings, needs_reports: bool, known: plan_lib.Plan | None = None
) -> plan_lib.Plan:
  """Makes the plan, unless it is known, then checks and logs it."""
  plan = known or plan_lib.make_plan(settings)
  if needs_reports:
    plan_lib.check_reports(settings, plan)
  plan_lib.log_plan(settings, plan)
  return plan


@contextlib.contextmanager
def _writing(settings: DataSettings) -> Iterator[None]:
  """Creates the folder, without a description; errors of the disk become one line."""
  folder = settings.records_folder
  other = "name another --config.data.records_dir"
  with disk.reporting(folder, making=True, instead=other):
    folder.mkdir(parents=True, exist_ok=True)
    moved.claim(settings, folder.parent)
    # First, so that no description points to records that are being replaced.
    (folder / "records.json").unlink(missing_ok=True)
    yield


def _read_description(settings: DataSettings) -> artifacts.Json | None:
  """What records.json says; None where there are no whole records of this version."""
  folder = settings.records_folder
  path = folder / "records.json"
  if not path.is_file():
    return None
  description = checked_files.read_json(path)
  try:
    plan_lib.check_format(path, description["format"])
    if description["format"] != plan_lib.FORMAT:
      logging.info("%s holds records of an earlier version: made again", folder)
      return None
    shards = store.of_description(folder, description).shards.values()
    names = (*(name for of_split in shards for name, _ in of_split), "rows.npz")
    whole = all((folder / name).is_file() for name in (*names, "files.npz"))
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise checked_files.damaged(path, f"{type(error).__name__}: {error}") from error
  return description if whole else None


def _check(
  settings: DataSettings, description: artifacts.JsonMapping
) -> tuple[Records | None, plan_lib.Plan | None, files_lib.Files | None]:
  """The records if they belong to the dataset; its plan and image files as read."""
  records = store.of_description(settings.records_folder, description)
  if description["fingerprints"]["settings"] != plan_lib.settings_hash(settings):
    return None, None, None
  if records.dropped and settings.missing == "error":
    return None, None, None
  if not settings.exists:
    logging.warning("no %s: its records are used as they are", settings.root)
    return records, None, None
  plan = plan_lib.make_plan(settings)
  old = _read_files(settings)
  if len(plan) != len(old.size):
    return None, plan, None
  rows = _kept(plan, old)
  saved = records.fingerprints
  if saved["ids"] != plan_lib.ids_hash(plan.table, rows):
    return None, plan, None
  if saved["labels"] != plan_lib.labels_hash(plan.table, _all(rows)):
    return None, plan, None
  read = functools.partial(parts_lib.read_square, settings=settings)
  files = files_lib.refresh(old, plan.paths(_all(plan.rows)), read)
  return None if files is None else records, plan, files


def _read_files(settings: DataSettings) -> files_lib.Files:
  path = settings.records_folder / "files.npz"
  return files_lib.Files(**checked_files.read_npz(path))


def _note_files(
  settings: DataSettings, description: artifacts.Json, files: files_lib.Files
) -> None:
  """Saves where the dataset is now and its files' times, for a faster next check."""
  folder = settings.records_folder
  old = _read_files(settings)
  # Optional: the disk may be read-only.
  with contextlib.suppress(OSError):
    if (old.size != files.size).any() or (old.time != files.time).any():
      artifacts.write_npz(folder / "files.npz", vars(files))
    if description["root"] != settings.location:
      description["root"] = settings.location
      checked_files.write_json(folder / "records.json", description)
      moved.claim(settings, folder.parent)


def _all(rows: Mapping[str, np.ndarray]) -> np.ndarray:
  return np.concatenate([rows[split] for split in splits.SPLITS])


def _kept(plan: plan_lib.Plan, files: files_lib.Files) -> dict[str, np.ndarray]:
  """Rows of every split whose image could be read."""
  kept, start = {}, 0
  for split in splits.SPLITS:
    rows = plan.rows[split]
    pixels = files.pixels[start : start + len(rows)]
    kept[split] = rows[pixels != files_lib.DAMAGED]
    start += len(rows)
  return kept


def _finish(
  settings: DataSettings, plan: plan_lib.Plan, parts: list[parts_lib.Part]
) -> Records:
  """Writes the index of rows, the statistics and the description, in this order."""
  folder = settings.records_folder
  files = files_lib.Files(
    **{
      name: np.concatenate([getattr(part.files, name) for part in parts])
      for name in vars(parts[0].files)
    }
  )
  rows = _kept(plan, files)
  damaged = np.setdiff1d(_all(plan.rows), _all(rows))
  artifacts.write_npz(folder / "rows.npz", store.index_of(plan, rows))
  artifacts.write_npz(folder / "files.npz", vars(files))
  pixels = files.pixels[files.pixels != files_lib.DAMAGED]
  description = {
    "format": plan_lib.FORMAT,
    "root": settings.location,
    "fingerprints": {
      "settings": plan_lib.settings_hash(settings),
      "ids": plan_lib.ids_hash(plan.table, rows),
      "labels": plan_lib.labels_hash(plan.table, _all(rows)),
      "images": plan_lib.digest(pixels.astype("<u8").tobytes()),
    },
    "image_size": settings.image_size,
    "resize": settings.resize,
    "vocabulary": list(plan.table.vocabulary),
    "num_rows": {split: len(of_split) for split, of_split in rows.items()},
    "sources": list(settings.source_names) if plan.table.source is not None else [],
    "statistics": {},
    "dropped": [*plan.absent, *plan.table.id[damaged].tolist()],
    "shards": {
      split: [
        (os.fspath(path.relative_to(folder)), count)
        for part in parts
        if part.split == split
        for path, count in part.shards
      ]
      for split in splits.SPLITS
    },
  }
  train = RecordSource(store.of_description(folder, description), "train")
  chosen = np.linspace(0, len(train) - 1, min(len(train), MAX_STATISTICS_IMAGES))
  description["statistics"] = statistics_lib.image_statistics(
    train[round(row)]["image"] for row in chosen
  )
  checked_files.write_json(folder / "records.json", description)
  return store.of_description(folder, description)
