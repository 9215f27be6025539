"""Time and context as the vectors and tokens that condition a denoiser.

t [b] in [0, 1000) --sinusoids--> [b c] --MLP--> [b 4c]
stream [b n d] --normalise, project, + stream, + position--> [b n w] --+
learned null token, never masked ------------------------------------> concatenate
"""

from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import edm2_layers
from cxr_diffusion_jax.types import Context, StreamSpec, TokenStream


def sinusoids(values: Array, width: int, longest: float = 1e4) -> Array:
  """[...] -> [... width]: cosines, then sines, at frequencies from 1 to 1 / longest.

  Vaswani et al. 2017 (1706.03762), section 3.5, in Stable Diffusion's order; the width
  is even.
  """
  half = width // 2
  frequencies = np.exp(-np.log(longest) * np.arange(half) / half).astype(np.float32)
  angles = jnp.asarray(values, jnp.float32)[..., None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def grid_positions(rows: int, columns: int, width: int) -> Array:
  """Fixed 2-D positions [rows*columns width] f32, one half for each axis.

  Positions are fractions of the side, so maps of different resolution agree on places.
  Frequencies from four periods a side to a quarter separate the cells of an 8x8 map.
  """
  if width % 4:
    raise errors.InputError(f"positions of width {width}", "a multiple of 4")

  def along(cells):
    return sinusoids((np.arange(cells) + 0.5) * (8 * np.pi / cells), width // 2, 16.0)

  shape = (rows, columns, width // 2)
  down = jnp.broadcast_to(along(rows)[:, None], shape)
  right = jnp.broadcast_to(along(columns)[None], shape)
  return jnp.concatenate([down, right], axis=-1).reshape(rows * columns, width)


class TimestepEmbedding(nn.Module):
  """[b c] -> [b width]: two dense layers of `width`, SiLU in between."""

  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.Dense(self.width, dtype=self.dtype, name="linear_1")(x)
    return nn.Dense(self.width, dtype=self.dtype, name="linear_2")(nn.silu(x))


def embed_context(
  module: nn.Module,
  context: Context,
  batch: int,
  width: int,
  pooled_width: int,
  unit: bool = False,
) -> tuple[TokenStream, Array | None]:
  """Applies the `ContextEmbedder` of a network, in its compact method."""
  return ContextEmbedder(
    module.context_streams,
    width,
    pooled_width if module.pooled else 0,
    module.dtype,
    unit,
    name="context_embedder",
  )(context, batch)


class ContextEmbedder(nn.Module):
  """All streams of a context as one sequence, and as one vector.

  Raw embeddings have any scale, so each token is first normalised (without parameters).
  A masked token is replaced by zeros and stays masked. The null token comes first, so
  no mask is ever empty. An optional stream that the context lacks has a masked token.

  Attributes:
    width: of the sequence.
    pooled_width: of the pooled vector; 0 for none.
    unit: layers as in `edm2_layers`: an update turns each parameter by the angle that
      is the learning rate, whatever its size.
  """

  streams: tuple[StreamSpec, ...]
  width: int
  pooled_width: int = 0
  dtype: jnp.dtype = jnp.float32
  unit: bool = False

  @nn.compact
  def __call__(self, context: Context, batch: int) -> tuple[TokenStream, Array | None]:
    """Returns the sequence [b 1+N width], and the vector [b pooled_width] or None.

    Raises:
      errors.InputError: other streams or shapes than specified.
    """
    missing = self.streams[len(context) :]
    if all(spec.optional for spec in missing):
      context = (*context, *(_absent(spec, batch) for spec in missing))
    self._check(context)
    null = self.param("null_token", nn.initializers.normal(1.0), (self.width,))
    tokens = [jnp.broadcast_to(null, (batch, 1, self.width))]
    masks = [jnp.ones((batch, 1), bool)]
    for spec, stream in zip(self.streams, context, strict=True):
      tokens.append(self._embed(spec, stream))
      masks.append(stream.mask)
    sequence = jnp.concatenate(tokens, axis=1).astype(self.dtype)
    mask = jnp.concatenate(masks, axis=1)
    if not self.pooled_width:
      return TokenStream(tokens=sequence, mask=mask), None
    weights = mask[..., None].astype(jnp.float32)
    mean = jnp.sum(sequence * weights, axis=1) / jnp.sum(weights, axis=1)
    pooled = self._dense(self.pooled_width, "pooled")(mean)
    return TokenStream(tokens=sequence, mask=mask), pooled

  def _embed(self, spec: StreamSpec, stream: TokenStream) -> Array:
    x = jnp.where(stream.mask[..., None], stream.tokens, 0).astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-8)
    x = self._dense(self.width, f"project_{spec.name}")(x)
    size = 1.0 if self.unit else 0.02
    mark = nn.initializers.normal(size)
    mark = self.param(f"stream_{spec.name}", mark, (self.width,))
    x = x + (0.3 * edm2_layers.pixel_norm(mark) if self.unit else mark)
    if spec.grid is not None:
      positions = grid_positions(*spec.grid, self.width)
      x = x + jnp.pad(positions, ((spec.num_leading, 0), (0, 0)))
    return x

  def _dense(self, width: int, name: str) -> nn.Module:
    kind = edm2_layers.Linear if self.unit else nn.Dense
    return kind(width, dtype=self.dtype, name=name)

  def _check(self, context: Context) -> None:
    expected = [(spec.num_tokens, spec.width) for spec in self.streams]
    got = [tuple(stream.tokens.shape[1:]) for stream in context]
    if got != expected:
      names = [spec.name for spec in self.streams]
      raise errors.InputError(
        f"a context of streams [tokens, width] {got}",
        f"{expected} for {names}",
        "give the denoiser the streams of the conditioner that made the context",
      )
    for spec in self.streams:
      of_map = spec.num_tokens - spec.num_leading
      if spec.grid is not None and spec.grid[0] * spec.grid[1] != of_map:
        raise errors.InputError(
          f"stream {spec.name!r} with {of_map} tokens in a {spec.grid} grid",
          "rows times columns tokens",
        )


def _absent(spec: StreamSpec, batch: int) -> TokenStream:
  """A stream without a token."""
  return TokenStream(
    tokens=jnp.zeros((batch, spec.num_tokens, spec.width)),
    mask=jnp.zeros((batch, spec.num_tokens), bool),
  )
