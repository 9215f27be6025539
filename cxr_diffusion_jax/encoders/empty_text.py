"""The states of the empty prompt, which some paths take for "no condition".

encoder("") --make--> <column's folder>/empty-NAME-HASH.npz --read--> [n d] float16

They belong to an encoder, not to rows, so that they are kept beside its columns.
"""

from collections.abc import Callable, Sequence
import hashlib
import pathlib

import numpy as np

from cxr_diffusion_jax import checked_files
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.encoders import base


def make(
  folder: pathlib.Path,
  specs: Sequence[conditioning.ColumnSpec],
  description: str,
  open_fn: Callable[[], base.Encoder],
) -> None:
  """Encodes the empty prompt for those columns that need it and lack it.

  Args:
    folder: with the columns.
    description: of the encoder that `open_fn` opens.
  """
  for spec in specs:
    if spec.empty:
      checked_files.load_or_make(
        _path(folder, spec.name, description),
        lambda name=spec.name: (
          open_fn().encode_text([name], [""])[name][0].astype(np.float16)
        ),
      )


def read(
  specs: Sequence[conditioning.ColumnSpec], columns: Sequence[columns_lib.Column]
) -> dict[str, np.ndarray]:
  """Returns the states [n d] of each column that needs them, after `make`."""
  return {
    spec.name: checked_files.read(
      # COLUMN's folder is <folder>/columns/COLUMN.
      _path(column.folder.parents[1], spec.name, column.description.encoder)
    )
    for spec, column in zip(specs, columns, strict=True)
    if spec.empty
  }


def _path(folder: pathlib.Path, name: str, description: str) -> pathlib.Path:
  mark = hashlib.sha256(base.identity(description).encode()).hexdigest()[:8]
  return folder / f"empty-{name}-{mark}.npz"
