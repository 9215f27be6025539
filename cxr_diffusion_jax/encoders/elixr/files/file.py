"""The kinds of ELIXR embedding, and one file that holds one of them.

Shapes are those of CXR Foundation's two models: `elixrc` is ELIXR-C's pooled feature
map, the other kinds are outputs of the ELIXR-B Q-Former.
"""

import dataclasses
import pathlib
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import numpy as np

from cxr_diffusion_jax import errors

if TYPE_CHECKING:
  import h5py

# What one image has, a kind.
SHAPES = MappingProxyType(
  {
    "elixrc": (8, 8, 1376),
    "img_emb": (32, 768),
    "txt_emb": (128, 768),
    "all_contrastive_img_emb": (32, 128),
    "contrastive_img_emb": (128,),
    "contrastive_txt_emb": (128,),
  }
)

# Kinds made from texts; the others are made from images.
TEXT_KINDS = ("contrastive_txt_emb", "txt_emb")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElixrFile:
  """One file and where in it the rows and their ids are.

  Attributes:
    path: the .h5 or .npz file.
    form: one letter, A to F (see `elixr`).
    kind: a key of `SHAPES`.
    key: the dataset that holds the values; empty in form F.
    ids_key: dataset or parquet column that holds the ids; empty in form F.
    ids_path: the parquet file of form C.
    num_rows: how many images it holds.
    standin: made by this project's stand-in encoder, so says the file itself; None
      when it does not say.
    encoder: what made it, so says the file itself; empty when it does not.
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

  Takes bytes or text, with or without folders and `.png`, and the text of a bytes
  repr: `b'00000001_000.png'` -> `00000001_000`.
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
