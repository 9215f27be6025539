"""The types shared between packages: batches, contexts, denoisers, progress.

batch --Conditioner--> context --Denoiser(x_t, t, context)--> prediction
"""

from collections.abc import Callable
import dataclasses
from typing import Any, Protocol

import flax.struct
import jax
import numpy as np

from cxr_diffusion_jax.progress import Progress, no_progress

__all__ = (
  "Array",
  "Arrays",
  "Batch",
  "Context",
  "DenoiseFn",
  "Device",
  "Params",
  "Progress",
  "StreamSpec",
  "TokenStream",
  "no_progress",
)

# On the device or the host. Networks and samplers see only `jax.Array`.
Array = jax.Array | np.ndarray

# Fields of a batch share the leading axis b. `image` [b h w 1] is float32 in [-1, 1].
Batch = dict[str, Array]

# A tree of parameters, as created by Flax Linen.
Params = Any


class Device(Protocol):
  """A `jax.Device`, which JAX exports without a type."""

  @property
  def platform(self) -> str: ...
  @property
  def device_kind(self) -> str: ...
  def memory_stats(self) -> dict[str, int] | None: ...


class Arrays(Protocol):
  """Arrays by row: stacked, in a list, or read on access."""

  def __len__(self) -> int: ...
  def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSpec:
  """What a conditioner promises about one of its token streams.

  Attributes:
    name: names the stream in parameters, drop rates and guidance scales.
    num_tokens: n of `TokenStream.tokens` [b n d].
    width: d of `TokenStream.tokens` [b n d].
    grid: (rows, columns) when the tokens are a map in row-major order.
    num_leading: tokens before those of the map, such as a class token.
    optional: whether a context may lack the stream, which comes last.
  """

  name: str
  num_tokens: int
  width: int
  grid: tuple[int, int] | None = None
  num_leading: int = 0
  optional: bool = False


@flax.struct.dataclass
class TokenStream:
  """One sequence of condition tokens.

  Attributes:
    tokens: [b n d] float.
    mask: [b n] bool, True where the token is real (not padding, not dropped).
    null: [b n d], the tokens that replace a dropped stream; None to mask it.
  """

  tokens: jax.Array
  mask: jax.Array
  null: jax.Array | None = None


# One entry a stream, in the order of the conditioner's specifications.
Context = tuple[TokenStream, ...]

# (x_t [b h w c], t [b] in [0, 1], context) -> prediction [b h w c]
DenoiseFn = Callable[[jax.Array, jax.Array, Context], jax.Array]
