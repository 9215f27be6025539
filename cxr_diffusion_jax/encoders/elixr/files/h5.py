"""HDF5 files of ELIXR embeddings: forms A to E (see `elixr`), inspected and streamed.

A block of rows is whole HDF5 chunks, or 256 MB where a chunk's rows have more, so that
chunks are decompressed once, or a few times at worst. Blocks without a wanted row are
not read.
"""

from collections.abc import Iterator
import contextlib
import pathlib
import re

import h5py
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.elixr.files.file import (
  SHAPES,
  ElixrFile,
  dataset,
  squeeze,
  stem_of,
)

_GENERIC_KEYS = ("Embeddings", "Embedding", "embeddings")
_ID_KEYS = ("Image Index", "image_ids")

# Of a file. The largest public corpora have fewer than a million images.
_MOST_ROWS = 10**7


def inspect(path: pathlib.Path, kind: str, declared: bool) -> ElixrFile | None:
  """Locates the rows of a kind in an HDF5 file; None if it holds another kind.

  `declared`: whether the file is in a folder named after `kind`.

  Raises:
    InputError: the file is damaged, without a known key or without ids; its rows have
      the wrong shape; or ids and rows differ in number.
  """
  with _open(path) as file:
    key = _value_key(path, file, kind, declared)
    if key is None:
      return None
    num_rows = dataset(file, key).shape[0]
    if num_rows > _MOST_ROWS:
      # A compressed file of a megabyte can state any number.
      raise errors.InputError(
        f"{path} has {num_rows:,} rows", f"at most {_MOST_ROWS:,}"
      )
    ids_key, ids_path, num_ids = _find_ids(path, file)
    if num_ids != num_rows:
      raise errors.InputError(
        f"{path} has {num_rows} rows in {key!r} but {num_ids} ids in"
        f" {ids_path or path.name}",
        "one id a row",
        "download or copy the files again",
      )
    form = "A"
    if ids_path is not None:
      form = "C"
    elif key == "elixrc_embedding":
      form = "D"
    elif key == "embeddings":
      form = "B" if ids_key == "image_ids" else "E"
    return ElixrFile(
      path=path,
      form=form,
      kind=kind,
      key=key,
      ids_key=ids_key,
      ids_path=ids_path,
      num_rows=num_rows,
      standin=bool(file.attrs["standin"]) if "standin" in file.attrs else None,
      encoder=str(file.attrs.get("encoder", "")),
    )


def batches(
  file: ElixrFile,
  wanted: np.ndarray | None,
  *,
  block_bytes: int = 32 << 20,
  max_bytes: int = 256 << 20,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (stems [k], values [k *shape]) of the wanted rows, in the file's order.

  Values are yielded in blocks of `block_bytes`. They are read in whole chunks of the
  file, so more than one block may be read at once, but at most `max_bytes`.
  """
  with _open(file.path) as opened:
    stems = _read_stems(file, opened)
    keep = np.ones(len(stems), bool) if wanted is None else np.isin(stems, wanted)
    values_of = dataset(opened, file.key)
    row_bytes = values_of.dtype.itemsize * int(np.prod(file.shape))
    step = max(1, block_bytes // row_bytes)
    block = step
    if values_of.chunks:
      chunk = values_of.chunks[0]
      block = min(chunk * max(1, step // chunk), max(1, max_bytes // row_bytes))
    for start in range(0, len(stems), block):
      rows = np.flatnonzero(keep[start : start + block])
      if not rows.size:
        continue
      low, high = start + rows[0], start + rows[-1] + 1
      values = np.asarray(values_of[low:high]).reshape(-1, *file.shape)
      for lower in range(low, high, step):
        part = slice(lower, min(lower + step, high))
        taken = keep[part]
        # Indexing copies, so that no consumer keeps the whole block alive.
        if taken.any():
          yield stems[part][taken], values[part.start - low : part.stop - low][taken]
      # Before the next block is read: two of them would double the peak.
      del values


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[h5py.File]:
  """Opens for reading; what HDF5 cannot read is an InputError that names the file."""
  try:
    _check_heaps(path)
    with h5py.File(path, "r") as file:
      _check_inside(path, file)
      yield file
  # All that h5py raises on damaged files.
  except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
    raise errors.InputError(
      f"{path} cannot be read as HDF5: {error}",
      "a whole HDF5 file",
      "download or copy the file again, or move it out of the tree",
    ) from error


def _check_heaps(path: pathlib.Path) -> None:
  """Raises OSError for a damaged heap of texts, in which HDF5 would loop for ever.

  Files of embeddings have them, if at all, near their beginning.
  """
  with path.open("rb") as file:
    start = file.read(2**20)

  def number(place: int, size: int) -> int:
    return int.from_bytes(start[place : place + size], "little")

  for heap in re.finditer(rb"GCOL\x01", start):
    place = heap.start() + 16
    end = min(heap.start() + number(heap.start() + 8, 8), len(start))
    while place + 16 <= end:
      index, size = number(place, 2), number(place + 8, 8)
      # Entry 0 is the free space, with its header; others are padded to 8 bytes.
      step = 16 + (size + 7) // 8 * 8 if index else size
      if step == 0:
        raise OSError("a damaged heap")
      place += step


def _check_inside(path: pathlib.Path, file: h5py.File) -> None:
  """Refuses what would read other files of this machine: links and outside data."""
  for name in file:
    link = file.get(name, getlink=True)
    what = "" if isinstance(link, h5py.HardLink) else "a link"
    if not what:
      entry = file[name]
      if isinstance(entry, h5py.Dataset) and (entry.external or entry.is_virtual):
        what = "data of other files"
    if what:
      raise errors.InputError(
        f"{path}: {name!r} is {what}",
        "datasets whose data are in the file itself",
        "copy the data into the file, for example with h5repack",
      )


def _value_key(
  path: pathlib.Path, file: h5py.File, kind: str, declared: bool
) -> str | None:
  """The dataset of `file` that holds `kind`, or None when it holds another kind."""
  keys = sorted(str(key) for key in file if isinstance(file[key], h5py.Dataset))
  known = {*SHAPES, *_GENERIC_KEYS, "elixrc_embedding"}
  if not known.intersection(keys):
    raise errors.InputError(
      f"{path} has only the keys {', '.join(keys) or '(none)'}",
      f"one of {', '.join(sorted(known))}",
      "rename the dataset, or move the file out of the tree",
    )
  own = (kind, "elixrc_embedding") if kind == "elixrc" else (kind,)
  named = next((key for key in own if key in keys), None)
  key = named or next((key for key in _GENERIC_KEYS if key in keys), None)
  if key is None:
    return None
  values = dataset(file, key)
  shape = squeeze(values.shape[1:])
  if shape == SHAPES[kind] and np.issubdtype(values.dtype, np.floating):
    # A vector of 128 under a general key is an image's, unless a name says text.
    text = "txt" in path.parent.name + path.name
    ours = shape != (128,) or text == (kind == "contrastive_txt_emb")
    return key if named or declared or ours else None
  if named or declared or shape not in SHAPES.values():
    raise errors.InputError(
      f"{path}: {key!r} has rows of shape {list(values.shape[1:])} {values.dtype}",
      f"{list(SHAPES[kind])} in floating point for {kind}",
      "move the file to the folder of its kind, or out of the tree",
    )
  return None


def _find_ids(
  path: pathlib.Path, file: h5py.File
) -> tuple[str, pathlib.Path | None, int]:
  """Where the ids are, (key, parquet file if any), and how many there are."""
  for key in _ID_KEYS:
    if key in file:
      return key, None, len(dataset(file, key))
  parquets = sorted(
    parquet
    for parquet in path.parent.glob("*.parquet")
    if path.stem == parquet.stem or path.stem.startswith(parquet.stem + "_")
  )
  if not parquets:
    raise errors.InputError(
      f"{path} has no ids",
      f"{' or '.join(map(repr, _ID_KEYS))} in it, or a .parquet file of the same name"
      " beside it",
    )
  parquet = max(parquets, key=lambda parquet: len(parquet.stem))
  table = _open_parquet(parquet)
  for key in _ID_KEYS:
    if key in table.schema_arrow.names:
      return key, parquet, table.metadata.num_rows
  raise errors.InputError(
    f"{parquet} has the columns {', '.join(sorted(table.schema_arrow.names))}",
    f"one of {', '.join(_ID_KEYS)}",
  )


def _read_stems(file: ElixrFile, opened: h5py.File) -> np.ndarray:
  """The stem of every row: '<U' [n]."""
  if file.ids_path is None:
    ids = np.asarray(dataset(opened, file.ids_key)[...]).reshape(-1)
  else:
    table = _open_parquet(file.ids_path).read(columns=[file.ids_key])
    ids = table.column(file.ids_key).to_pylist()
  if wrong := [one for one in ids if not isinstance(one, bytes | str)]:
    raise errors.InputError(
      f"{file.ids_path or file.path}: {file.ids_key!r} has {wrong[0]} as an id",
      "the name of an image in each row, as text",
      "write them as texts, such as 00000001_000.png",
    )
  return np.array([stem_of(identifier) for identifier in ids], dtype=np.str_)


def _open_parquet(path: pathlib.Path):
  """A `pyarrow.parquet.ParquetFile`; imported here, as only form C needs it."""
  try:
    import pyarrow as pa
    import pyarrow.parquet as pq
  except ImportError as error:
    raise errors.InputError(
      f"{path} needs pyarrow, which is not installed", fix="pip install pyarrow"
    ) from error
  try:
    return pq.ParquetFile(path)
  except (OSError, pa.ArrowException) as error:
    raise errors.InputError(
      f"{path} cannot be read as parquet: {error}",
      "a whole parquet file",
      "download or copy the file again",
    ) from error
