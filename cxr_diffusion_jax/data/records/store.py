"""Records on disk: the index of their rows, and random access to them."""

from collections.abc import Mapping
import dataclasses
import json
import operator
from pathlib import Path

import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, errors
from cxr_diffusion_jax.data import array_records, splits
from cxr_diffusion_jax.data.records import format as record_format
from cxr_diffusion_jax.data.records import plan as plan_lib
from cxr_diffusion_jax.data.settings import DataSettings

# Kept beside the records too, where a whole split is read at once.
INDEXED_FIELDS = ("id", "patient", "findings", "age", "sex", "view")

# Of the rows of a `RecordSource`.
FIELDS = ("image", "boxes", "expert", "row", *INDEXED_FIELDS[1:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
  """Records on disk.

  Attributes:
    num_rows: split -> rows, for all of `splits.SPLITS`.
    fingerprints: hashes of `settings` (size and resizing), `ids` (of every split, in
      order), `labels` and `images` (the pixels of the squares); of content alone.
    dropped: ids of rows left out, because their image is absent or damaged.
    shards: split -> (file below `folder`, its rows), in row order.
    share: (p, n): this process makes the pth of n parts of each column, while others
      make the other parts.
    sources: names of the sources that were joined; () for one, and for records of an
      earlier version that were not opened with their dataset since.
  """

  folder: Path
  image_size: int
  vocabulary: tuple[str, ...]
  num_rows: dict[str, int]
  fingerprints: dict[str, str]
  statistics: artifacts.Json
  dropped: tuple[str, ...]
  shards: dict[str, tuple[tuple[str, int], ...]]
  share: tuple[int, int] = (0, 1)
  sources: tuple[str, ...] = ()

  @property
  def fingerprint(self) -> str:
    """32 hexadecimal digits of all `fingerprints`."""
    return plan_lib.digest(json.dumps(self.fingerprints, sort_keys=True).encode())

  def ids(self, split: str) -> np.ndarray:
    """[n] str, names of the split's images in row order."""
    return self._read(split, "id")["id"]

  def fields(self, split: str) -> dict[str, np.ndarray]:
    """Everything but the images of a split, without reading the records.

    Returns:
      id [n] str, patient [n] i32, findings [n k], age [n] f32, sex and view [n] i8.
      Findings are uint8, or float32 if some are unknown (nan).
    """
    return self._read(split, *INDEXED_FIELDS)

  def boxes(self, split: str) -> np.ndarray:
    """[n k 4] float32, boxes as fractions of the whole image; nan for none."""
    stored = self._read(split, "boxed_rows", "boxes")
    boxes = np.full((self.num_rows[split], len(self.vocabulary), 4), np.nan, np.float32)
    boxes[stored["boxed_rows"]] = stored["boxes"]
    return boxes

  def source(self, split: str) -> np.ndarray | None:
    """[n] int32, the place in `sources` of each row; None without sources."""
    if not self.sources:
      return None
    return self._read(split, "source")["source"].astype(np.int32)

  def reports(self, split: str) -> list[str] | None:
    """Reports in row order, '' for none; None if the dataset has no reports."""
    key = f"{split}/report"
    rows = checked_files.read_npz(self.folder / "rows.npz", [key], optional=True)
    return json.loads(rows[key].tobytes()) if key in rows else None

  def _read(self, split: str, *names: str) -> dict[str, np.ndarray]:
    _check_split(self, split)
    keys = [f"{split}/{name}" for name in names]
    rows = checked_files.read_npz(self.folder / "rows.npz", keys)
    return {name: rows[key] for name, key in zip(names, keys, strict=True)}


class RecordSource:
  """Random access to the records of one split, for Grain and for anyone.

  `source[i]` is a dict: image uint8 [h w 1], findings float32 [k] (1 present, 0 absent,
  nan unknown), age float32 (years, nan unknown), sex int32 (0 F, 1 M, -1), view int32
  (0 PA, 1 AP, -1), patient int32, boxes float32 [k 4] (x, y, width, height as fractions
  of the square, nan where none), expert float32 [4] (`base.EXPERT_FINDINGS`, nan
  unknown), row int32 (i), and of joined sources source int32 (`Records.source`). Arrays
  are read-only. May be pickled and used by many threads at once.
  """

  def __init__(self, records: Records, split: str):
    _check_split(records, split)
    self.split = split
    self.image_size = records.image_size
    self._num_rows = records.num_rows[split]
    self._reader = array_records.open_files(
      [(records.folder / name, count) for name, count in records.shards[split]]
    )
    self._source = records.source(split)
    self._message = record_format.example_class()

  def __getstate__(self) -> artifacts.Json:
    return {name: value for name, value in vars(self).items() if name != "_message"}

  def __setstate__(self, state: artifacts.Json) -> None:
    vars(self).update(state, _message=record_format.example_class())

  def __len__(self) -> int:
    return self._num_rows

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    row = operator.index(index)
    if not -len(self) <= row < len(self):
      raise IndexError(f"row {row} of {len(self)} in {self.split}")
    row %= len(self)
    record = record_format.parse_example(
      self._message, self._reader[row], self.image_size, row
    )
    return record if self._source is None else record | {"source": self._source[row]}


def _check_split(records: Records, split: str) -> None:
  if split not in records.num_rows:
    raise errors.InputError(f"split {split!r}", f"one of {', '.join(splits.SPLITS)}")


def of_description(folder: Path, description: artifacts.JsonMapping) -> Records:
  """Raises what a missing entry or one of another type raises."""
  return Records(
    folder=folder,
    image_size=description["image_size"],
    vocabulary=tuple(description["vocabulary"]),
    num_rows={
      split: operator.index(count) for split, count in description["num_rows"].items()
    },
    fingerprints=description["fingerprints"],
    statistics=description["statistics"],
    dropped=tuple(description["dropped"]),
    shards={
      split: tuple((name, operator.index(count)) for name, count in of_split)
      for split, of_split in description["shards"].items()
    },
    sources=tuple(description.get("sources", ())),
  )


def index_of(
  plan: plan_lib.Plan, rows: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """What rows.npz holds: `SPLIT/FIELD` of all fields but the images."""
  table = plan.table
  index: dict[str, np.ndarray] = {}
  for split, some in rows.items():
    fields = {name: getattr(table, name)[some] for name in INDEXED_FIELDS}
    if table.source is not None:
      fields["source"] = table.source[some]
    if not np.isnan(table.findings).any():
      fields["findings"] = fields["findings"].astype(np.uint8)
    ids = table.id[some].tolist()
    boxed = [row for row, image_id in enumerate(ids) if image_id in table.boxes]
    fields["boxed_rows"] = np.array(boxed, np.int64)
    fields["boxes"] = np.array(
      [table.boxes[ids[row]] for row in boxed], np.float32
    ).reshape(len(boxed), len(table.vocabulary), 4)
    if table.report is not None:
      reports = [table.report.get(image_id, "") for image_id in ids]
      fields["report"] = np.frombuffer(json.dumps(reports).encode(), np.uint8)
    index |= {f"{split}/{name}": value for name, value in fields.items()}
  return index


def add_sources(
  records: Records,
  description: artifacts.Json,
  index: Mapping[str, np.ndarray],
  settings: DataSettings,
) -> Records:
  """Adds the source of each row to records of an earlier version, which left it out.

  `index` is that of `index_of`. On a read-only disk they stay as they are.
  """
  try:
    artifacts.write_npz(records.folder / "rows.npz", index)
    description["sources"] = list(settings.source_names)
    checked_files.write_json(records.folder / "records.json", description)
  except OSError:
    return records
  return of_description(records.folder, description)
