"""Makes the records in parts, so that a run that is killed loses little work.

rows of a split -> parts of 128 MiB -> threads decode and resize -> a TFDS dataset each

A part is whole once TFDS has renamed its folder; what a killed run left beside that is
removed and made again.
"""

from collections.abc import Callable
import dataclasses
import functools
import json
from pathlib import Path
import shutil

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import images, labels, splits
from cxr_diffusion_jax.data.records import format as record_format
from cxr_diffusion_jax.data.records import plan as plan_lib
from cxr_diffusion_jax.data.sources.nih import boxes

# What a kill may lose and memory must hold, against the number of files: a reader keeps
# each of them open, and 1,024 are often all that a process may have.
PART_BYTES = 2**27
MIN_PART_ROWS = 256
MAX_PART_ROWS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """A whole part.

  Attributes:
    split: that all its rows belong to.
    shards: (file, its rows), in row order.
    damaged: ids of rows left out, because their image cannot be read.
  """

  split: str
  shards: tuple[tuple[Path, int], ...]
  damaged: tuple[str, ...]


def make_parts(
  plan: plan_lib.Plan,
  folder: Path,
  settings: plan_lib.RecordSettings,
  *,
  progress: types.Progress,
) -> list[Part]:
  """Makes all parts that are not there yet.

  Args:
    plan: of the rows.
    folder: of the parts; belongs to this plan alone.
    settings: of the records.
    progress: told of the images done, those of earlier runs included.

  Returns:
    The parts, in row order.

  Raises:
    InputError: an image that cannot be read, unless `settings.missing` is `drop`; or
      too little room on the disk.
    OSError: the folder cannot be written to.
  """
  folder.mkdir(parents=True, exist_ok=True)
  jobs = _jobs(plan, folder, settings.image_size)
  to_make = sum(len(rows) for _, path, rows in jobs if not path.exists())
  _check_room(folder, to_make, settings.image_size)
  parts = []
  done = 0
  for split, path, rows in jobs:
    part = _open_part(path, split, len(rows))
    if part is None:
      so_far = functools.partial(_tell, progress, done, len(plan.entries))
      _write_part(path, split, rows, plan, settings, so_far)
      part = _open_part(path, split, len(rows))
    if part.damaged and settings.missing == "error":
      # Parts of an earlier run with missing=drop.
      raise errors.InputError(
        f"{len(part.damaged)} images cannot be read, first {part.damaged[0]}",
        "whole PNGs",
        "copy them again, or go on without these rows: --config.data.missing=drop",
      )
    parts.append(part)
    done += len(rows)
    progress("records", done, len(plan.entries))
  return parts


def _jobs(
  plan: plan_lib.Plan, folder: Path, image_size: int
) -> list[tuple[str, Path, np.ndarray]]:
  """Split, folder and rows of every part."""
  size = min(MAX_PART_ROWS, max(MIN_PART_ROWS, PART_BYTES // image_size**2))
  jobs = []
  for split in splits.SPLITS:
    rows = np.flatnonzero(plan.split == split)
    for number, start in enumerate(range(0, len(rows), size)):
      path = folder / f"{split}-{number:05d}"
      jobs.append((split, path, rows[start : start + size]))
  return jobs


def _tell(progress: types.Progress, before: int, total: int, count: int) -> None:
  progress("records", before + count, total)


def _open_part(path: Path, split: str, num_rows: int) -> Part | None:
  note = path / "damaged.json"
  if not note.is_file():
    return None
  damaged = tuple(json.loads(note.read_text()))
  shards = record_format.shards(path, split)
  if sum(count for _, count in shards) + len(damaged) != num_rows:
    return None
  return Part(split=split, shards=shards, damaged=damaged)


def _write_part(
  path: Path,
  split: str,
  rows: np.ndarray,
  plan: plan_lib.Plan,
  settings: plan_lib.RecordSettings,
  progress_fn: Callable[[int], None],
) -> None:
  shutil.rmtree(path, ignore_errors=True)
  path.mkdir()
  examples, damaged = [], []
  decoded = images.in_threads(lambda row: _example(plan, row, settings), rows)
  for count, (row, example) in enumerate(zip(rows, decoded, strict=True), start=1):
    if not isinstance(example, errors.InputError):
      examples.append(example)
    elif settings.missing == "error":
      raise example
    else:
      logging.warning("left out: %s", example)
      damaged.append(str(plan.entries.id[row]))
    if count % 64 == 0:
      progress_fn(count)
  # Before TFDS renames its folder, so that no part is whole without this note.
  (path / "damaged.json").write_text(json.dumps(damaged))
  if examples:
    record_format.write_dataset(path, split, settings.image_size, examples)


def _example(
  plan: plan_lib.Plan, row: int, settings: plan_lib.RecordSettings
) -> dict | errors.InputError:
  try:
    image = images.read_grey(plan.paths[row])
  except errors.InputError as error:
    return error
  entries = plan.entries
  image_id = str(entries.id[row])
  of_image = plan.boxes.get(image_id, np.full((len(labels.FINDINGS), 4), np.nan))
  height, width = image.shape
  square = images.resize(image, settings.image_size, settings.resize)
  return {
    "id": image_id,
    "image": square[:, :, np.newaxis],
    "findings": entries.findings[row].astype(np.float32),
    "boxes": boxes.boxes_in_square(
      of_image, source_size=(width, height), mode=settings.resize
    ),
    "expert": plan.expert.get(image_id, np.full(4, np.nan, np.float32)),
    "age": entries.age[row],
    "sex": int(entries.sex[row]),
    "view": int(entries.view[row]),
    "patient": int(entries.patient[row]),
  }


def _check_room(folder: Path, num_rows: int, image_size: int) -> None:
  # TFDS compresses by a quarter and holds a part in memory, so this is enough.
  needed = num_rows * image_size**2
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise errors.InputError(
      f"{free / 2**30:.1f} GiB are free for records in {folder}",
      f"{needed / 2**30:.1f} GiB for {num_rows} images of {image_size} pixels",
      "another --config.data.folder or a smaller --config.data.image_size",
    )
