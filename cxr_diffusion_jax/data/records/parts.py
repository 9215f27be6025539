"""Writes the records in parts, so that a killed run loses little work.

rows of a split -> parts of 128 MiB -> threads decode and resize -> a TFDS dataset each

A part is whole once TFDS's folder has its name and `part.json` says what it was made
from. Only parts that are missing, or made from other content, are made.
"""

import dataclasses
import functools
from pathlib import Path
import re
import shutil

from absl import logging
import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, disk, errors
from cxr_diffusion_jax.data import dicom, images
from cxr_diffusion_jax.data.records import files as files_lib
from cxr_diffusion_jax.data.records import format as record_format
from cxr_diffusion_jax.data.records import plan as plan_lib
from cxr_diffusion_jax.data.records import reuse
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.progress import Progress

# What a kill may lose and memory must hold, against the number of files: a reader keeps
# each of them open, and 1,024 are often all that a process may have.
PART_BYTES = 2**27
MIN_PART_ROWS = 256
MAX_PART_ROWS = 4096

FOLDER = "parts"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Part:
  """A whole part.

  Attributes:
    shards: (file, its rows), in row order.
    files: the images that it was made from, damaged ones included.
  """

  split: str
  shards: tuple[tuple[Path, int], ...]
  files: files_lib.Files


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
  """A part to make: its split, folder, rows of the plan, and hash of what it holds."""

  split: str
  path: Path
  rows: np.ndarray
  key: str


def read_square(path: str, settings: DataSettings) -> np.ndarray:
  """The image of a file as records hold it: [s s] uint8."""
  return images.resize(dicom.read_image(path), settings.image_size, settings.resize)


def make_parts(
  plan: plan_lib.Plan,
  settings: DataSettings,
  *,
  shard: tuple[int, int] = (0, 1),
  progress: Progress,
) -> list[Part]:
  """Makes all parts that are not there yet, and deletes those that belong to no row.

  Args:
    shard: (p, n): of the parts p, p + n, ... alone, while other processes make others.

  Returns:
    The parts, in row order; of a shard, its own.

  Raises:
    InputError: an image that cannot be read, unless `settings.missing` is `drop`; or
      too little room on the disk.
    OSError: the folder cannot be written to.
  """
  folder = settings.records_folder / FOLDER
  folder.mkdir(parents=True, exist_ok=True)
  jobs = _jobs(plan, folder, settings)
  unused = set(folder.iterdir()) - {job.path for job in jobs}
  first, step = shard
  jobs = jobs[first::step]
  for path in (*unused, *folder.parent.glob("parts-*")) if first == 0 else ():
    # Other files are not ours; an earlier version wrote `parts-HASH`.
    if re.fullmatch(r"[a-z]+-\d{5}|parts-[0-9a-f]{16}", path.name):
      shutil.rmtree(path)
  opened = [_open_part(job, plan, settings) for job in jobs]
  to_make = sum(len(j.rows) for j, p in zip(jobs, opened, strict=True) if p is None)
  disk.check_room(
    folder,
    # Records are compressed by a quarter, so this is enough.
    to_make * settings.image_size**2,
    f"records of {to_make} images of {settings.image_size} pixels",
    "another --config.data.records_dir or a smaller --config.data.image_size",
  )
  parts, squares = [], None
  done, total = 0, sum(len(job.rows) for job in jobs)
  for job, part in zip(jobs, opened, strict=True):
    if part is None:
      squares = squares or reuse.open_squares(plan.table, settings)
      part = _make_part(job, plan, settings, squares, progress, (done, total))
    damaged = part.files.pixels == files_lib.DAMAGED
    if damaged.any() and settings.missing == "error":
      # A part of an earlier run with missing=drop.
      first = plan.table.id[job.rows[damaged]][0]
      raise errors.InputError(
        f"{damaged.sum()} images cannot be read, first {first}",
        "whole PNGs",
        "copy them again, or leave these rows out: --config.data.missing=drop",
      )
    parts.append(part)
    done += len(job.rows)
    progress("records", done, total)
  return parts


def num_missing(plan: plan_lib.Plan, settings: DataSettings) -> int:
  """Returns the number of parts that are not there yet."""
  jobs = _jobs(plan, settings.records_folder / FOLDER, settings)
  return sum(_open_part(job, plan, settings) is None for job in jobs)


def _jobs(plan: plan_lib.Plan, folder: Path, settings: DataSettings) -> list[_Job]:
  size = min(MAX_PART_ROWS, max(MIN_PART_ROWS, PART_BYTES // settings.image_size**2))
  jobs = []
  for split, rows in plan.rows.items():
    for number, start in enumerate(range(0, len(rows), size)):
      some = rows[start : start + size]
      content = (
        str(plan_lib.FORMAT),
        plan_lib.settings_hash(settings),
        plan_lib.ids_hash(plan.table, {split: some}),
        plan_lib.labels_hash(plan.table, some),
      )
      jobs.append(
        _Job(
          split=split,
          path=folder / f"{split}-{number:05d}",
          rows=some,
          key=plan_lib.digest("".join(content).encode()),
        )
      )
  return jobs


def _open_part(job: _Job, plan: plan_lib.Plan, settings: DataSettings) -> Part | None:
  """The part if it is whole and its labels and images are those of the plan."""
  note = job.path / "part.json"
  if not note.is_file():
    return None
  saved = checked_files.read_json(note)
  if saved["key"] != job.key:
    return None
  old = files_lib.Files(
    size=np.array(saved["size"], np.int64),
    time=np.array(saved["time"], np.int64),
    pixels=np.array(saved["pixels"], np.uint64),
  )
  read = functools.partial(read_square, settings=settings)
  files = files_lib.refresh(old, plan.paths(job.rows), read)
  shards = record_format.shards(job.path, job.split)
  num_rows = sum(count for _, count in shards)
  if files is None or num_rows != np.count_nonzero(files.pixels != files_lib.DAMAGED):
    return None
  return Part(split=job.split, shards=shards, files=files)


def _make_part(
  job: _Job,
  plan: plan_lib.Plan,
  settings: DataSettings,
  squares: reuse.SquareFn,
  progress: Progress,
  of_all: tuple[int, int],
) -> Part:
  """Makes a part; `of_all` is how many rows were done before, and of how many."""
  shutil.rmtree(job.path, ignore_errors=True)
  job.path.mkdir()
  paths = plan.paths(job.rows)
  # Before the images are read: one that changes meanwhile shows as changed.
  files = files_lib.stat(paths, np.full(len(paths), files_lib.DAMAGED, np.uint64))

  def make(place: int) -> artifacts.Json | errors.InputError:
    row = int(job.rows[place])
    known = squares(row, int(files.size[place]), int(files.time[place]))
    return _try_example(plan, row, settings, known)

  examples = []
  for position, example in enumerate(images.in_threads(make, range(len(paths)))):
    if isinstance(example, dict):
      files.pixels[position] = files_lib.pixel_hash(example["image"])
      examples.append(example)
    elif settings.missing == "error":
      raise example
    else:
      logging.warning("left out: %s", example)
    if (position + 1) % 64 == 0:
      done, total = of_all
      progress("records", done + position + 1, total)
  note = {"key": job.key} | {name: x.tolist() for name, x in vars(files).items()}
  # Before TFDS's folder has its name, so that no part is whole without this note.
  checked_files.write_json(job.path / "part.json", note)
  if examples:
    record_format.write_dataset(
      job.path,
      job.split,
      examples,
      image_size=settings.image_size,
      vocabulary=plan.table.vocabulary,
    )
  shards = record_format.shards(job.path, job.split)
  return Part(split=job.split, shards=shards, files=files)


def _try_example(
  plan: plan_lib.Plan, row: int, settings: DataSettings, square: np.ndarray | None
) -> artifacts.Json | errors.InputError:
  """An example; `square` is its image, where it is known already."""
  table = plan.table
  image_id = str(table.id[row])
  boxes = np.full((len(table.vocabulary), 4), np.nan, np.float32)
  if square is None or image_id in table.boxes:
    try:
      image = dicom.read_image(table.image[row] or "")
    except errors.InputError as error:
      return error
    boxes = table.boxes.get(image_id, boxes)
    boxes = images.resize_boxes(boxes, image.shape, settings.resize)
    square = images.resize(image, settings.image_size, settings.resize)
  return {
    "id": image_id,
    "image": square[:, :, np.newaxis],
    "findings": table.findings[row].astype(np.float32),
    "boxes": boxes,
    "expert": table.expert.get(image_id, np.full(4, np.nan, np.float32)),
    "age": table.age[row],
    "sex": int(table.sex[row]),
    "view": int(table.view[row]),
    "patient": int(table.patient[row]),
  }
