"""What a conditioning path is, how one is found by name, and how it is dropped.

  batch --Conditioner--> (TokenStream, ...) --drop_context--> (TokenStream, ...)

A token of zeros is no token: padding, a modality that is not there and the condition of
an unconditional sample are all stored as zeros and masked here (`stream`).

A path is one module of this folder that exports a class `Conditioner`. There is no
registry: `load("NAME")` imports `conditioning/NAME.py`.
"""

import ast
import dataclasses
import importlib
import pathlib
from typing import Protocol

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.encoders import base as encoder_lib

REFERENCES = ("self", "same_patient")

# The CLIP that `prepare` trains on the tree's own images, in place of a published one.
STANDIN = "standin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
  """What a path reads besides the labels that every record has.

  Attributes:
    columns: embedding columns to join to the records; the batch carries each under
      its name.
    clip: folder or hub id of the CLIP that makes the columns `clip_*`, or "standin".
    chunks: windows of 77 tokens that a prompt may fill in `clip_text`.
    reference: whose columns made from images are: 'self' for the image that is to be
      generated, 'same_patient' for another one of its patient.
  """

  columns: tuple[str, ...] = ()
  clip: str = ""
  chunks: int = 1
  reference: str = "self"

  def __post_init__(self):
    if self.reference not in REFERENCES:
      raise errors.InputError(
        f"config.conditioning.reference={self.reference!r}", " or ".join(REFERENCES)
      )
    if self.chunks < 1:
      raise errors.InputError(f"config.conditioning.chunks={self.chunks}", "1 or more")

  @property
  def reference_columns(self) -> tuple[str, ...]:
    """Those made from an image."""
    return tuple(name for name in self.columns if name not in encoder_lib.TEXT_COLUMNS)

  @property
  def inputs(self) -> tuple[str, ...]:
    """What a user may give in their place: 'prompt', 'findings', 'reference'."""
    text = len(self.reference_columns) < len(self.columns)
    given = ("prompt", "findings") if text else ()
    given += ("reference",) if self.reference_columns else ()
    return given or ("findings",)


class Conditioner(Protocol):
  """Turns a batch into token streams; frozen dataclasses implement it.

  Attributes:
    needs: what it reads from a batch.
    streams: the specification of each token stream, in the order of the context.
  """

  @property
  def needs(self) -> Needs: ...

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]: ...

  def __call__(self, batch: types.Batch) -> types.Context: ...


def names() -> list[str]:
  """Returns the conditioning paths of this folder, sorted."""
  return sorted(
    path.stem
    for path in pathlib.Path(__file__).parent.glob("*.py")
    if path.stem != "base"
    and any(
      isinstance(node, ast.ClassDef) and node.name == "Conditioner"
      for node in ast.parse(path.read_text(encoding="utf-8")).body
    )
  )


def load(name: str) -> type[Conditioner]:
  """Returns the class `Conditioner` of `conditioning/NAME.py`.

  Raises:
    errors.InputError: there is no such path; those found are listed.
  """
  found = names()
  if name not in found:
    raise errors.InputError(
      f"conditioning path {name!r}",
      f"one of {', '.join(found)}",
      f"set config.conditioning.name, or add conditioning/{name}.py",
    )
  return importlib.import_module(f"cxr_diffusion_jax.conditioning.{name}").Conditioner


def stream(values: types.Array) -> types.TokenStream:
  """Makes a stream of stored values, whose tokens of zeros are no tokens.

  Args:
    values: [b n d] of any floating-point type.

  Returns:
    tokens [b n d] float32 and their mask [b n].
  """
  tokens = jnp.asarray(values, jnp.float32)
  return types.TokenStream(tokens=tokens, mask=jnp.any(tokens != 0, axis=-1))


def drop_context(context: types.Context, drop: jax.Array) -> types.Context:
  """Drops whole streams of single examples by masking their tokens.

  What remains of an example without any stream is the null token that the denoiser
  adds, so training with dropped streams is what makes guidance possible (Ho and
  Salimans, 2207.12598).

  Args:
    context: streams with masks [b n].
    drop: [b s] bool, True drops stream s of that example.

  Returns:
    The same tokens with smaller masks.
  """
  return tuple(
    stream.replace(mask=stream.mask & ~drop[:, i, None])
    for i, stream in enumerate(context)
  )


def drop_all(context: types.Context) -> types.Context:
  """Drops every stream of every example: the unconditional context."""
  return tuple(
    stream.replace(mask=jnp.zeros_like(stream.mask, dtype=bool)) for stream in context
  )
