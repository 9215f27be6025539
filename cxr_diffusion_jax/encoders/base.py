"""The interface of frozen encoders, and how one is found by name.

  prompts --encode_text--> {column: [n *shape]}     images --encode_images--> the same

`prepare` runs an encoder once over a dataset, and `sample` runs the same one on a
user's prompts and images, so that both give the same numbers.

An encoder is a module of the folder `columns` that exports what `EncoderModule` lists.
There is no registry.
"""

from collections.abc import Collection, Mapping, Sequence
import re
from typing import TYPE_CHECKING, Protocol, cast

from cxr_diffusion_jax import errors, naming, types
from cxr_diffusion_jax.conditioning import base as conditioning

if TYPE_CHECKING:
  import numpy as np

  from cxr_diffusion_jax.data.records import records as records_lib
  from cxr_diffusion_jax.data.settings import DataSettings

# Part of an encoder's description when its files do not say which model made them.
NAMELESS = "as found in form"

_PACKAGE = "cxr_diffusion_jax.encoders.columns"


class Encoder(Protocol):
  """Makes columns from texts and images; frozen dataclasses implement it.

  Attributes:
    description: one line with the encoder's name and the fingerprint of its weights.
    standin: True if this project trained it instead of a published one.
    shapes: shape of one row of every column that it can make.
    whole_images: whether it takes original images of any size, or the records' squares.
  """

  @property
  def description(self) -> str: ...

  @property
  def standin(self) -> bool: ...

  @property
  def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

  @property
  def whole_images(self) -> bool: ...

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, "np.ndarray"]:
    """Returns [n *shape] float32 of each text column, for n >= 1 prompts."""
    ...

  def encode_images(
    self, columns: Sequence[str], images: Sequence["np.ndarray"]
  ) -> dict[str, "np.ndarray"]:
    """Returns [n *shape] float32 of each image column, for n >= 1 images [h w] uint8.

    Images may differ in size; if `whole_images`, they may also be uint16.
    """
    ...


class EncoderModule(Protocol):
  """What an encoder's module exports; `COLUMNS` names the columns that it makes."""

  COLUMNS: Collection[str]

  def spec(
    self, column: str, *, model: str = "", chunks: int = 1
  ) -> conditioning.ColumnSpec:
    """Describes one of `COLUMNS` without reading weights; see `ColumnSpec`."""
    ...

  def make(
    self,
    settings: "DataSettings",
    records: "records_lib.Records",
    specs: Sequence[conditioning.ColumnSpec],
    progress: types.Progress,
  ) -> None:
    """Makes columns that are missing or stale; see `encoding.encode_columns`."""
    ...

  def open_encoder(
    self, spec: conditioning.ColumnSpec, place: str, standin: bool
  ) -> Encoder:
    """Opens the encoder that made a column.

    `place` is the folder or hub id of the weights, "" for the default; `standin` says
    whether this project trained it.
    """
    ...


def identity(description: str) -> str:
  """Returns the part of a description that identifies weights: their size and hash.

  The name of a folder or hub id does not identify a copy elsewhere.
  """
  match = re.search(r"[\d.]+M [0-9a-f]{12}", description)
  return description[match.start() :] if match else description


def check_same(column: str, description: str, expected: str) -> None:
  """Raises InputError unless an encoder is the one that made a column.

  `expected` describes that one. Embedding files of other projects do not name their
  model; nothing is compared then.
  """
  same = identity(expected).startswith(identity(description))
  if not same and NAMELESS not in expected:
    raise errors.InputError(
      f"the encoder is {description}",
      f"{expected}, which made the column {column} that the run learned from",
      "restore that encoder, or name its folder with --encoder, or train a new run",
    )


def load(name: str) -> EncoderModule:
  """Imports an encoder's module; raises InputError if there is none."""
  return cast(EncoderModule, naming.load("encoder", _PACKAGE, name))


def needs(
  *columns: str, model: str = "", chunks: int = 1, reference: str = "self"
) -> conditioning.Needs:
  """Returns the needs of columns that are given by name.

  Arguments are those of `conditioning.ColumnSpec` and `conditioning.Needs`.

  Raises:
    errors.InputError: no encoder makes a column, or its model cannot be reached.
  """
  makers = {column: module for module in _modules() for column in module.COLUMNS}
  return conditioning.Needs(
    specs=tuple(
      makers[naming.check("column", name, makers)].spec(
        name, model=model, chunks=chunks
      )
      for name in columns
    ),
    reference=reference,
  )


def shapes(needs: conditioning.Needs) -> dict[str, tuple[int, ...]]:
  """Returns the shape of one row of each column, as made by its encoder.

  Raises:
    errors.InputError: a model cannot be reached, or a path declares another shape.
  """
  result = {}
  for spec in needs.specs:
    module = load(spec.encoder)
    shape = module.spec(spec.name, model=spec.model, chunks=spec.chunks).shape
    check_shape(spec, shape)
    result[spec.name] = shape
  return result


def check_shape(spec: conditioning.ColumnSpec, shape: tuple[int, ...]) -> None:
  """Raises InputError unless a column has the shape that its path declares."""
  if spec.shape and tuple(spec.shape) != tuple(shape):
    raise errors.InputError(
      f"rows of column {spec.name} have the shape {list(shape)}",
      f"{list(spec.shape)}, as the conditioning path declares",
      "correct the path, or name the encoder that it is for",
    )


def columns() -> tuple[str, ...]:
  """Names of all columns that encoders make, sorted."""
  return tuple(sorted(name for module in _modules() for name in module.COLUMNS))


def _modules() -> list[EncoderModule]:
  return [load(name) for name in naming.modules(_PACKAGE)]
