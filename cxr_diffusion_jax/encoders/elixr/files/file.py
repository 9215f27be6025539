"""The kinds of ELIXR embedding, one file that holds one of them, and npz files.

Shapes are those of CXR Foundation's two models: `elixrc` is ELIXR-C's pooled feature
map, the other kinds are outputs of the ELIXR-B Q-Former. Form F is Google's npz: image
id -> 4096 = 32 x 128 numbers, read entry by entry and never unpickled.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import elixr_b, elixr_c
from cxr_diffusion_jax.data import npz

if TYPE_CHECKING:
  import h5py

# Shape of one row of each kind.
SHAPES = MappingProxyType(
  {"elixrc": (*elixr_c.GRID, elixr_c.WIDTH)}
  | {kind: shape for kind, (_, shape) in elixr_b.KINDS.items()}
)

# Kinds made from texts; the others are made from images.
TEXT_KINDS = tuple(
  kind for kind, (source, _) in elixr_b.KINDS.items() if source == "text"
)

# Rows of an npz that are read at a time.
_BATCH_ROWS = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElixrFile:
  """One file, and the location of its rows and ids.

  Attributes:
    path: the .h5 or .npz file.
    form: one letter, A to F (see `elixr`).
    kind: a key of `SHAPES`.
    key: the dataset that holds the values; empty in form F.
    ids_key: dataset or parquet column that holds the ids; empty in form F.
    ids_path: the parquet file of form C.
    num_rows: how many images it holds.
    standin: whether the file states that this project's stand-in encoder made it; None
      if it does not say.
    encoder: the encoder that the file names; empty if it names none.
  """

  path: pathlib.Path
  form: str
  kind: str
  key: str = ""
  ids_key: str = ""
  ids_path: pathlib.Path | None = None
  num_rows: int
  standin: bool | None = None
  encoder: str = ""

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of one row."""
    return SHAPES[self.kind]


def dataset(file: "h5py.File", key: str) -> "h5py.Dataset":
  """A dataset of an open file."""
  return cast("h5py.Dataset", file[key])


def squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
  """`shape` without its leading 1s."""
  while shape and shape[0] == 1:
    shape = shape[1:]
  return tuple(shape)


def stem_of(identifier: bytes | str) -> str:
  """The stem of an image's file name, from any form of id.

  Takes bytes, text or the text of a bytes repr, with or without folders and `.png`:
  `b'00000001_000.png'` -> `00000001_000`.
  """
  if isinstance(identifier, bytes):
    identifier = identifier.decode("utf-8", errors="replace")
  text = identifier.strip()
  if shown := re.fullmatch(r"b(['\"])(.*)\1", text):
    text = shown[2]
  name = text.replace("\\", "/").rsplit("/", 1)[-1]
  return re.sub(r"\.(png|jpe?g|webp|dcm)$", "", name, flags=re.IGNORECASE)


def check_finite(path: pathlib.Path, stems: np.ndarray, values: np.ndarray) -> None:
  """Raises InputError, naming file and rows, when a value is NaN or infinite."""
  if np.isfinite(values).all():
    return
  bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
  raise errors.InputError(
    f"{path} has NaN or infinite values in {bad.sum()} rows read so far, for example"
    f" {', '.join(stems[bad][:3])}",
    "finite embeddings",
    "make these rows again, or take them out of the file",
  )


def inspect_npz(path: pathlib.Path, kind: str, declared: bool) -> ElixrFile | None:
  """Inspects an npz as `h5.inspect` does; form F is `all_contrastive_img_emb`.

  Returns None when the file holds something else, such as vectors of text queries.

  Raises:
    InputError: the file is damaged, or its rows have the wrong shape.
  """
  if kind != "all_contrastive_img_emb":
    return None
  with npz.open_npz(path) as entries:
    names = entries.files
    if not names:
      return None
    first = npz.read_entry(path, entries, names[0])
    size = int(np.prod(SHAPES[kind]))
    if first.size == size and np.issubdtype(first.dtype, np.floating):
      return ElixrFile(path=path, form="F", kind=kind, num_rows=len(names))
    is_text = first.size == SHAPES["contrastive_txt_emb"][0]
    if declared or (np.issubdtype(first.dtype, np.floating) and not is_text):
      raise _wrong_shape(path, names[0], first, size)
    return None


def npz_batches(
  file: ElixrFile, wanted: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (stems [k], values [k *shape]) of the wanted rows, in the file's order."""
  with npz.open_npz(file.path) as entries:
    names = np.array(entries.files, dtype=np.str_)
    stems = np.array([stem_of(name) for name in names], dtype=np.str_)
    keep = np.ones(len(names), bool) if wanted is None else np.isin(stems, wanted)
    names, stems, size = names[keep], stems[keep], int(np.prod(file.shape))
    for start in range(0, len(names), _BATCH_ROWS):
      part = slice(start, start + _BATCH_ROWS)
      rows = []
      for name in names[part].tolist():
        row = npz.read_entry(file.path, entries, name)
        if row.size != size or not np.issubdtype(row.dtype, np.floating):
          raise _wrong_shape(file.path, name, row, size)
        rows.append(row.reshape(file.shape))
      yield stems[part], np.stack(rows)


def _wrong_shape(
  path: pathlib.Path, name: str, row: np.ndarray, size: int
) -> errors.InputError:
  return errors.InputError(
    f"{path}: {name!r} has the shape {list(row.shape)} {row.dtype}",
    f"{size} floating-point numbers",
    "move the file out of the tree",
  )
