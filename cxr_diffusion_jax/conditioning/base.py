"""What a conditioning path is, how one is found by name, and how it is dropped.

  batch --Conditioner--> (TokenStream, ...) --drop_context--> (TokenStream, ...)

A token of zeros is no token: padding, a modality that is absent and the condition of an
unconditional sample are all stored as zeros and masked here (`stream`).

A path is one module of this folder that exports a class `Conditioner`; there is no
registry.
"""

from collections.abc import Mapping
import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, errors, naming, types

REFERENCES = ("self", "same_patient", "same_findings")
SOURCES = ("image", "text")

# The CLIP that `prepare` trains on the tree's own images, in place of a published one.
STANDIN = "standin"

_PACKAGE = "cxr_diffusion_jax.conditioning"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnSpec:
  """A column of embeddings that a path reads.

  Attributes:
    name: of the column, and of the batch's field.
    encoder: module of `encoders/` that makes it.
    source: what it is made from: 'image' or 'text'.
    shape: of one row; () where it depends on the encoder's weights.
    model: folder or hub id of the encoder's weights, or "standin"; "" where the encoder
      needs none, or where embeddings are files of the dataset.
    chunks: windows of tokens that a prompt may fill.
    location: folder or hub id where the weights are now; "" for `model`.
    empty: whether the states of the empty prompt are kept, as the null condition.
  """

  name: str
  encoder: str
  source: str = "image"
  shape: tuple[int, ...] = ()
  model: str = ""
  chunks: int = 1
  location: str = ""
  empty: bool = False

  def __post_init__(self):
    naming.check(f"source of column {self.name}", self.source, SOURCES)
    if self.chunks < 1:
      raise errors.InputError(f"config.conditioning.chunks={self.chunks}", "1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
  """What a path reads besides the labels that every record has.

  Attributes:
    specs: embedding columns to join to the records.
    reference: which image the columns made from images describe: 'self' for the one to
      be generated, 'same_patient' for another one of its patient, 'same_findings' for
      one of another patient with the same findings, sex and view.
    sources: whether the source of each image of a joined dataset is read.
  """

  specs: tuple[ColumnSpec, ...] = ()
  reference: str = "self"
  sources: bool = False

  def __post_init__(self):
    if self.reference not in REFERENCES:
      raise errors.InputError(
        f"config.conditioning.reference={self.reference!r}", " or ".join(REFERENCES)
      )

  def at(self, location: str) -> "Needs":
    """The same needs, with the weights of their encoders at a location."""
    specs = [dataclasses.replace(spec, location=location) for spec in self.specs]
    return dataclasses.replace(self, specs=tuple(specs))

  @property
  def columns(self) -> tuple[str, ...]:
    """Names of all columns."""
    return tuple(spec.name for spec in self.specs)

  @property
  def text_columns(self) -> tuple[str, ...]:
    """Those made from a text."""
    return tuple(spec.name for spec in self.specs if spec.source == "text")

  @property
  def reference_columns(self) -> tuple[str, ...]:
    """Those made from an image."""
    return tuple(spec.name for spec in self.specs if spec.source == "image")

  @property
  def inputs(self) -> tuple[str, ...]:
    """What a user may give in their place: 'prompt', 'findings', 'reference'."""
    inputs = ("prompt", "findings") if self.text_columns else ()
    inputs += ("reference",) if self.reference_columns else ()
    return inputs or ("findings",)


class Conditioner(Protocol):
  """Turns a batch into token streams; frozen dataclasses implement it.

  Attributes:
    needs: what it reads from a batch.
    streams: the specification of each token stream, in the order of the context.
  """

  __dataclass_fields__: ClassVar[artifacts.Json]

  @property
  def needs(self) -> Needs: ...

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]: ...

  def __call__(self, batch: types.Batch) -> types.Context: ...


def names() -> tuple[str, ...]:
  """Returns the conditioning paths of this folder, sorted."""
  return naming.modules(_PACKAGE, without=("base",))


def load(name: str) -> type[Conditioner]:
  """Returns the class `Conditioner` of `conditioning/NAME.py`, or lists all names."""
  module = naming.load("conditioning path", _PACKAGE, name, without=("base",))
  return module.Conditioner


def with_shape(
  conditioner: Conditioner, shapes: Mapping[str, tuple[int, ...]]
) -> Conditioner:
  """Fills in the field `shape` of a path that has one.

  Such a path reads one column, or `findings`; `shapes` are of one row of each.
  """
  if getattr(conditioner, "shape", True):
    return conditioner
  (name,) = conditioner.needs.columns or ("findings",)
  return dataclasses.replace(conditioner, shape=tuple(shapes[name]))


def stream(values: types.Array) -> types.TokenStream:
  """Makes a stream of stored values [b n d], without their tokens of zeros."""
  tokens = jnp.asarray(values, jnp.float32)
  return types.TokenStream(tokens=tokens, mask=jnp.any(tokens != 0, axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WithNull:
  """A conditioner of one stream whose null condition is tokens, not their absence.

  Attributes:
    states: [n d], the tokens of an example without a condition.
  """

  conditioner: Conditioner
  states: np.ndarray

  @property
  def needs(self) -> Needs:
    return self.conditioner.needs

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    return self.conditioner.streams

  def __call__(self, batch: types.Batch) -> types.Context:
    (given,) = self.conditioner(batch)
    null = jnp.broadcast_to(jnp.asarray(self.states), given.tokens.shape)
    present = jnp.any(given.mask, axis=1)[:, None]
    tokens = jnp.where(present[..., None], given.tokens, null)
    return (types.TokenStream(tokens=tokens, mask=given.mask | ~present, null=null),)


def drop_context(context: types.Context, drop: jax.Array) -> types.Context:
  """Drops whole streams of single examples; `drop` [b s] bool is True to drop stream s.

  A stream is masked, or replaced by its `null`. What remains of an example without any
  stream is the null token that the denoiser adds: training with dropped streams makes
  guidance possible (Ho and Salimans, 2207.12598).
  """
  return tuple(
    dataclasses.replace(stream, mask=stream.mask & ~drop[:, i, None])
    if stream.null is None
    else dataclasses.replace(
      stream, tokens=jnp.where(drop[:, i, None, None], stream.null, stream.tokens)
    )
    for i, stream in enumerate(context)
  )


def drop_all(context: types.Context) -> types.Context:
  """Drops every stream of every example: the unconditional context."""
  return drop_context(context, jnp.ones((1, len(context)), bool))
