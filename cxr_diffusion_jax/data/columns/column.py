"""A finished column on disk: one array per row, in the row order of the records.

open_column(records, name) -> Column; column.source(split)[i] -> array

  <records>/columns/NAME/description.json             written last, when complete
  <records>/columns/NAME/SPLIT-00000.array_record     record i is row i, or empty
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import os
import pathlib

from etils import epath
import numpy as np

from cxr_diffusion_jax import checked_files
from cxr_diffusion_jax.data import array_records

_FORMAT = 1
_DESCRIPTION = "description.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnDescription:
  """The contents of description.json.

  Attributes:
    shape: of one row.
    dtype: numpy's name of the type on disk.
    source_fingerprint: of what the values were made from.
    ids_fingerprint: of the rows they were made for (see `ids_fingerprint`).
    rows_per_shard: rows of every file but the last of a split.
    missing: ids without a value, a split.
    num_duplicates: values left out because the id had come before; a resumed run counts
      its own only.
  """

  name: str
  shape: tuple[int, ...]
  dtype: str
  encoder: str
  standin: bool
  source_fingerprint: str
  ids_fingerprint: str
  num_rows: dict[str, int]
  rows_per_shard: int
  missing: dict[str, tuple[str, ...]]
  missing_rows: dict[str, tuple[int, ...]]
  num_duplicates: int = 0

  @property
  def row_bytes(self) -> int:
    """Bytes of one row."""
    return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

  @property
  def fingerprint(self) -> str:
    """Of the source and of the ids together."""
    both = self.source_fingerprint + self.ids_fingerprint
    return hashlib.sha256(both.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
  """A whole column on disk."""

  folder: pathlib.Path
  description: ColumnDescription

  @property
  def num_rows(self) -> dict[str, int]:
    """Rows of each split, those without a value included."""
    return self.description.num_rows

  def source(self, split: str) -> "ColumnSource":
    """Random access to the rows of a split; opens no file yet."""
    self._check_split(split)
    return ColumnSource(self, split)

  def present(self, split: str) -> np.ndarray:
    """Which rows of a split have a value: bool [n]."""
    self._check_split(split)
    mask = np.ones(self.num_rows[split], bool)
    mask[list(self.description.missing_rows[split])] = False
    return mask

  def shards(self, split: str) -> list[tuple[pathlib.Path, int]]:
    """The files of a split in order, each with its number of rows."""
    step, total = self.description.rows_per_shard, self.num_rows[split]
    return [
      (self.folder / f"{split}-{i:05d}.array_record", min(step, total - start))
      for i, start in enumerate(range(0, total, step))
    ]

  def _check_split(self, split: str) -> None:
    if split not in self.num_rows:
      raise KeyError(
        f"no split {split!r}; there are {', '.join(sorted(self.num_rows))}"
      )


class ColumnSource:
  """Rows of one split: `source[i]` is an array of the description's shape and dtype.

  Picklable. Files are opened when first read, and again in every process. The arrays
  are read-only views of the record's bytes.
  """

  def __init__(self, column: Column, split: str):
    self.column = column
    self.split = split

  def __len__(self) -> int:
    return self.column.num_rows[self.split]

  def __getitem__(self, row: int) -> np.ndarray:
    if not 0 <= row < len(self):
      raise IndexError(f"row {row} of {len(self)} rows of {self.split}")
    record = self._records[row]
    about = self.column.description
    if not record:
      raise KeyError(
        f"column {about.name}: row {row} of {self.split} has no value; see `present`"
      )
    return np.frombuffer(record, about.dtype).reshape(about.shape)

  def __getstate__(self) -> dict:
    return {"column": self.column, "split": self.split}

  @functools.cached_property
  def _records(self) -> Sequence[bytes]:
    return array_records.open_files(self.column.shards(self.split))


def ids_fingerprint(ids: Mapping[str, np.ndarray]) -> str:
  """A hash of the ids of every split, in their order."""
  digest = hashlib.sha256()
  for split in sorted(ids):
    text = "\n".join(ids[split])
    digest.update(f"{split} {len(ids[split])} {len(text)}\n{text}\n".encode())
  return digest.hexdigest()


def files_fingerprint(paths: Iterable[str | os.PathLike]) -> str:
  """32 hexadecimal digits of the content of files, whatever their names and times.

  Of each file its size counts, and up to 64 blocks of 4 KiB spread over it: cheap for
  files of any size, and not fooled by copies.
  """
  hasher = hashlib.blake2b(digest_size=16)
  for path in paths:
    size = epath.Path(path).stat().length
    hasher.update(size.to_bytes(8, "little"))
    with epath.Path(path).open("rb") as file:
      for start in np.unique(np.linspace(0, max(0, size - 4096), 64).astype(int)):
        file.seek(int(start))
        hasher.update(file.read(4096))
  return hasher.hexdigest()


def is_fresh(
  column: Column | None, ids_fingerprint: str, source_fingerprint: str
) -> bool:
  """Whether a column is there and was made for these ids from this source."""
  return column is not None and (
    column.description.ids_fingerprint == ids_fingerprint
    and column.description.source_fingerprint == source_fingerprint
  )


def open_column(folder: str | os.PathLike, name: str) -> Column | None:
  """Opens a column of the records in `folder`; see `is_fresh` too.

  Returns:
    None where there is none, or it is unfinished, or files of it are missing.
  """
  target = pathlib.Path(folder) / "columns" / name
  path = target / _DESCRIPTION
  if not path.is_file():
    return None
  values = checked_files.read_json(path)
  if values.pop("format", None) != _FORMAT:
    return None
  try:
    values["shape"] = tuple(values["shape"])
    for key in ("missing", "missing_rows"):
      values[key] = {split: tuple(rows) for split, rows in values[key].items()}
    column = Column(folder=target, description=ColumnDescription(**values))
  except (KeyError, TypeError, AttributeError) as error:
    raise checked_files.damaged(path, error) from error
  shards = [path for split in column.num_rows for path, _ in column.shards(split)]
  return column if all(path.is_file() for path in shards) else None


def missing_of(
  num_rows: dict[str, int], ids: np.ndarray, done: np.ndarray
) -> dict[str, dict[str, tuple]]:
  """The `missing` and `missing_rows` of a description."""
  ends = np.cumsum(list(num_rows.values()))[:-1]
  splits = zip(num_rows, np.split(ids, ends), np.split(done, ends), strict=True)
  missing, missing_rows = {}, {}
  for split, of_split, present in splits:
    missing[split] = tuple(of_split[~present].tolist())
    missing_rows[split] = tuple(np.flatnonzero(~present).tolist())
  return {"missing": missing, "missing_rows": missing_rows}


def write_description(folder: pathlib.Path, description: ColumnDescription) -> None:
  """Makes the shards in `folder` a column."""
  values = {"format": _FORMAT, **dataclasses.asdict(description)}
  checked_files.write_json(folder / _DESCRIPTION, values)


def remove_column(folder: pathlib.Path) -> None:
  """Deletes a column's files, description first, so that it is never half there."""
  (folder / _DESCRIPTION).unlink(missing_ok=True)
  for path in folder.glob("*.array_record"):
    path.unlink()
