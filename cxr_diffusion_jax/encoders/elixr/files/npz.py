"""Form F, Google's npz files of ELIXR-B embeddings, read entry by entry.

An npz is a zip of .npy files: image id -> 4096 = 32 x 128 numbers. Entries are never
unpickled.
"""

from collections.abc import Iterator
import pathlib

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import npz
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES, ElixrFile, stem_of

_BATCH_ROWS = 512


def inspect(path: pathlib.Path, kind: str, declared: bool) -> ElixrFile | None:
  """Inspects an npz file as `h5.inspect` does; form F is `all_contrastive_img_emb`.

  Returns:
    None when the file holds something else, such as the vectors of text queries.

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


def batches(
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
