"""Base records of a tree: images and their labels, made once, then read at random.

plan -> parts (decode + resize in threads -> TFDS builder -> ArrayRecord) -> rows.npz
     -> statistics -> records.json, written last: without it there are no records

TFDS writes a dataset whole or not at all. A tree is therefore cut into parts, a small
TFDS dataset each: a killed run goes on with the first part that is not there. Nothing
here imports tensorflow, and TFDS is imported only where records are written or read.
"""

import dataclasses
import json
import operator
import os
from pathlib import Path
import re
import shutil

import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.data import splits
from cxr_diffusion_jax.data.records import format as record_format
from cxr_diffusion_jax.data.records import parts as parts_lib
from cxr_diffusion_jax.data.records import plan as plan_lib
from cxr_diffusion_jax.data.records import statistics as statistics_lib
from cxr_diffusion_jax.data.records.plan import RecordSettings
from cxr_diffusion_jax.data.sources.nih import layout

MAX_STATISTICS_IMAGES = 512

# Of a `RecordSource`'s rows.
FIELDS = (
  "image",
  "findings",
  "age",
  "sex",
  "view",
  "patient",
  "boxes",
  "expert",
  "row",
)

# Also kept beside the records, where a whole split is read at once.
INDEXED_FIELDS = ("id", "patient", "findings", "age", "sex", "view")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
  """Records on disk.

  Attributes:
    folder: where they are.
    image_size: pixels of a side.
    num_rows: split -> rows, for all of `splits.SPLITS`.
    fingerprint: of what they were made from.
    statistics: of the training images, see `statistics.image_statistics`.
    dropped: ids of rows left out, because their image is absent or damaged.
    shards: split -> (file below `folder`, its rows), in row order.
  """

  folder: Path
  image_size: int
  num_rows: dict[str, int]
  fingerprint: str
  statistics: dict
  dropped: tuple[str, ...]
  shards: dict[str, tuple[tuple[str, int], ...]]

  def ids(self, split: str) -> np.ndarray:
    """[n] str, names of the split's images in row order."""
    return self.fields(split)["id"]

  def fields(self, split: str) -> dict[str, np.ndarray]:
    """Everything but the images of a split, without reading the records.

    Args:
      split: one of `splits.SPLITS`.

    Returns:
      id [n] str, patient [n] i32, findings [n 14] u8, age [n] f32, sex and view [n] i8.
    """
    if split not in self.num_rows:
      raise errors.InputError(f"split {split!r}", f"one of {', '.join(splits.SPLITS)}")
    with np.load(self.folder / "rows.npz") as rows:
      return {name: rows[f"{split}/{name}"] for name in INDEXED_FIELDS}


def open_records(settings: RecordSettings) -> Records | None:
  """Opens records if they are there and what they were made from has not changed.

  Args:
    settings: they were prepared with.

  Returns:
    The records; None when they are missing, unfinished, stale, or lack rows that
    `settings.missing` does not allow to lack.

  Raises:
    InputError: the tree is not usable.
  """
  path = Path(settings.folder) / "records.json"
  if not path.is_file():
    return None
  description = json.loads(path.read_text())
  tree = layout.find_tree(settings.root)
  if description["fingerprint"] != plan_lib.fingerprint(settings, tree):
    return None
  if description["dropped"] and settings.missing == "error":
    return None
  records = _records(Path(settings.folder), description)
  shards = [name for of_split in records.shards.values() for name, _ in of_split]
  is_whole = all((records.folder / name).is_file() for name in (*shards, "rows.npz"))
  return records if is_whole else None


def prepare_records(
  settings: RecordSettings, *, progress: types.Progress = types.no_progress
) -> Records:
  """Makes the records of a tree, or opens them; goes on where a killed run stopped.

  Args:
    settings: what to make of which tree.
    progress: told of the images done.

  Returns:
    The records.

  Raises:
    InputError: the tree is not usable (see `plan.plan_rows`), an image is damaged and
      `settings.missing` is not `drop`, or the folder cannot take the records.
  """
  records = open_records(settings)
  if records is not None:
    return records
  tree = layout.find_tree(settings.root)
  plan = plan_lib.plan_rows(settings, tree)
  fingerprint = plan_lib.fingerprint(settings, tree)
  folder = Path(settings.folder)
  try:
    _clear(folder, fingerprint)
    parts = parts_lib.make_parts(
      plan, folder / _parts_name(fingerprint), settings, progress=progress
    )
    return _finish(folder, settings, plan, parts, fingerprint)
  except OSError as error:
    raise errors.InputError(
      f"cannot write records to {folder}: {error.strerror or error}",
      "a folder with enough room that may be written to",
    ) from error


class RecordSource:
  """Random access to the records of one split, for Grain and for anyone.

  `source[i]` is a dict: image uint8 [h w 1], findings float32 [14], age float32 (years,
  nan unknown), sex int32 (0 F, 1 M, -1), view int32 (0 PA, 1 AP, -1), patient int32,
  boxes float32 [14 4] (x, y, width, height as fractions of the square, nan where none),
  expert float32 [4] (`google_labels.FOUR_FINDINGS`, nan unknown), row int32 (i).
  Arrays are read-only. May be pickled and used by many threads at once.
  """

  def __init__(self, records: Records, split: str):
    if split not in records.num_rows:
      raise errors.InputError(f"split {split!r}", f"one of {', '.join(splits.SPLITS)}")
    self.split = split
    self.image_size = records.image_size
    self._num_rows = records.num_rows[split]
    # With its rows beside its name, a file is opened only when it is read.
    paths = [f"{records.folder / name}[0:{n}]" for name, n in records.shards[split]]
    self._reader = record_format.open_shards(paths) if paths else None
    self._message = record_format.example_class()

  def __getstate__(self) -> dict:
    return {name: value for name, value in vars(self).items() if name != "_message"}

  def __setstate__(self, state: dict) -> None:
    vars(self).update(state, _message=record_format.example_class())

  def __len__(self) -> int:
    return self._num_rows

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    row = operator.index(index)
    if not -len(self) <= row < len(self):
      raise IndexError(f"row {row} of {len(self)} in {self.split}")
    row %= len(self)
    example = record_format.parse_example(
      self._message, self._reader[row], self.image_size
    )
    return example | {"row": np.int32(row)}


def _parts_name(fingerprint: str) -> str:
  return f"parts-{fingerprint[:16]}"


def _clear(folder: Path, fingerprint: str) -> None:
  """Removes stale records; their description first, so that none points to ruins."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "records.json").unlink(missing_ok=True)
  for old in folder.glob("parts-*"):
    ours = re.fullmatch(r"parts-[0-9a-f]{16}", old.name)
    if ours and old.name != _parts_name(fingerprint):
      shutil.rmtree(old)


def _finish(
  folder: Path,
  settings: RecordSettings,
  plan: plan_lib.Plan,
  parts: list[parts_lib.Part],
  fingerprint: str,
) -> Records:
  """Writes the index of rows, the statistics and the description, in this order."""
  rows: dict[str, np.ndarray] = {}
  num_rows: dict[str, int] = {}
  shards: dict[str, tuple[tuple[str, int], ...]] = {}
  dropped = list(plan.absent)
  for split in splits.SPLITS:
    of_split = [part for part in parts if part.split == split]
    dropped += [image_id for part in of_split for image_id in part.damaged]
    kept = np.flatnonzero(plan.split == split)
    kept = kept[~np.isin(plan.entries.id[kept], np.array(dropped, np.str_))]
    num_rows[split] = len(kept)
    shards[split] = tuple(
      (os.fspath(path.relative_to(folder)), count)
      for part in of_split
      for path, count in part.shards
    )
    entries = plan.entries.take(kept)
    for name in INDEXED_FIELDS:
      rows[f"{split}/{name}"] = getattr(entries, name)
  partial = folder / "rows.npz.partial"
  with partial.open("wb") as file:
    np.savez(file, **rows)
  partial.replace(folder / "rows.npz")
  description = {
    "format": plan_lib.FORMAT,
    "fingerprint": fingerprint,
    "image_size": settings.image_size,
    "resize": settings.resize,
    "num_rows": num_rows,
    "statistics": {},
    "dropped": dropped,
    "shards": shards,
  }
  train = RecordSource(_records(folder, description), "train")
  chosen = np.linspace(0, len(train) - 1, min(len(train), MAX_STATISTICS_IMAGES))
  description["statistics"] = statistics_lib.image_statistics(
    train[round(row)]["image"] for row in chosen
  )
  artifacts.write_text(folder / "records.json", json.dumps(description, indent=1))
  return _records(folder, description)


def _records(folder: Path, description: dict) -> Records:
  return Records(
    folder=folder,
    image_size=description["image_size"],
    num_rows=description["num_rows"],
    fingerprint=description["fingerprint"],
    statistics=description["statistics"],
    dropped=tuple(description["dropped"]),
    shards={
      split: tuple((name, count) for name, count in of_split)
      for split, of_split in description["shards"].items()
    },
  )
