"""What a conditioning path is, how one is found by name, and how it is dropped.

  batch --Conditioner--> (TokenStream, ...) --drop_context--> (TokenStream, ...)

A path is one module of this folder that exports a class `Conditioner`. There is no
registry: `load("NAME")` imports `conditioning/NAME.py`.
"""

import ast
import importlib
import pathlib
from typing import Protocol

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors, types


class Conditioner(Protocol):
  """Turns a batch into token streams; frozen dataclasses implement it.

  Attributes:
    columns: names of the embedding columns to join to the records; the batch
      carries each under its name.
    streams: the specification of each token stream, in the order of the context.
  """

  @property
  def columns(self) -> tuple[str, ...]: ...

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
