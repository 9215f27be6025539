"""Layers that preserve magnitudes: standard deviation 1 in, 1 out.

weight   w -> w / rms of each output's weights, divided by sqrt(number of inputs)
silu     silu(x) / 0.596           the root mean square of silu of normal numbers
sum      ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)
join     [a wa, b wb]: a share t of the magnitude is b's, for any widths
fourier  sqrt(2) cos(2 pi f_i x + phase_i)

Karras et al. 2024, EDM2 (2312.02696), section 2 and appendix B. No layer has a bias.
The length of a weight has no effect, so the learning rate sets how far it rotates.
"""

import math
import statistics

from einops import rearrange
from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.models import attention, network


def pixel_norm(x: Array) -> Array:
  """[... c] -> [... c] with a root mean square of 1 over the last axis; 0 stays 0."""
  wide = jnp.asarray(x, jnp.float32)
  # The floor keeps the gradient at 0 finite.
  square = jnp.mean(wide * wide, axis=-1, keepdims=True)
  return (wide * jax.lax.rsqrt(square + 1e-8)).astype(x.dtype)


def unit_weight(weight: Array) -> Array:
  """[... inputs outputs] -> the same shape, root mean square 1 for each output."""
  axes = tuple(range(weight.ndim - 1))
  square = jnp.mean(weight * weight, axis=axes, keepdims=True)
  return weight * jax.lax.rsqrt(jnp.maximum(square, 1e-30))


def silu(x: Array) -> Array:
  """SiLU, scaled to preserve the magnitude of normal numbers."""
  return nn.silu(x) / 0.596


def mix(a: Array, b: Array, t: float) -> Array:
  """A weighted sum of a and b; t in [0, 1] is the share of b."""
  return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def join(a: Array, b: Array, t: float) -> Array:
  """[... m], [... n] -> [... m+n]; t in [0, 1] is the share of b in its magnitude."""
  m, n = a.shape[-1], b.shape[-1]
  scale = math.sqrt(m + n) / math.hypot(1 - t, t)
  parts = [a * (scale * (1 - t) / math.sqrt(m)), b * (scale * t / math.sqrt(n))]
  return jnp.concatenate(parts, axis=-1)


def fourier(x: Array, width: int) -> Array:
  """Waves of normally distributed frequencies, as fixed features of a number.

  Frequencies are quantiles of the normal distribution and phases are multiples of the
  golden ratio. The paper draws both; this has the same spread without a seed.
  x [b] has a range of a few units. Returns [b width] float32.
  """
  normal = statistics.NormalDist()
  frequencies = np.array([normal.inv_cdf((i + 0.5) / width) for i in range(width)])
  phases = np.arange(width) * ((math.sqrt(5) - 1) / 2) % 1
  turns = jnp.asarray(x, jnp.float32)[:, None] * frequencies.astype(np.float32)
  angles = 2 * np.pi * (turns + phases.astype(np.float32))
  return math.sqrt(2) * jnp.cos(angles)


class Linear(nn.Module):
  """A convolution of a window (rows, columns), or a matrix if it is (), without bias.

  The parameter is `weight` [*window inputs width]; it is normalised.
  """

  width: int
  window: tuple[int, ...] = ()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c], or [... c] without a window -> [... width]."""
    shape = (*self.window, x.shape[-1], self.width)
    weight = self.param("weight", nn.initializers.normal(1.0), shape)
    weight = unit_weight(weight) / math.sqrt(math.prod(shape[:-1]))
    x, weight = x.astype(self.dtype), weight.astype(self.dtype)
    if not self.window:
      return x @ weight

    def conv(x: Array) -> Array:
      numbers = ("NHWC", "HWIO", "NHWC")
      return jax.lax.conv_general_dilated(
        x, weight, (1, 1), "SAME", dimension_numbers=numbers
      )

    return network.convolve(conv, x)


class CosineAttention(nn.Module):
  """x mixed with its attention to itself or to a context, by cosines.

  Queries, keys and values are normalised per head, so the square root of a head's width
  bounds the logits. `balance` is the share of the attention in the output.
  """

  num_heads: int
  balance: float = 0.3
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Array,
    context: Array | None = None,
    mask: Array | None = None,
    positions: Array | None = None,
  ) -> Array:
    """x [b h w c] and a context [b k d] with its mask [b k], or x itself -> [b h w c].

    `positions` [h*w c] of standard deviation 1 are mixed into the queries' input.
    """
    width, rows = x.shape[-1], x.shape[1]
    tokens = rearrange(x, "b h w c -> b (h w) c")
    source = tokens if context is None else context
    queried = tokens
    if positions is not None:
      queried = mix(tokens, positions[None].astype(tokens.dtype), 0.5)

    def project(name, inputs):
      out = Linear(width, dtype=self.dtype, name=name)(inputs)
      return pixel_norm(rearrange(out, "b n (h d) -> b n h d", h=self.num_heads))

    key, value = project("to_k", source), project("to_v", source)
    out = attention.attend(project("to_q", queried), key, value, mask)
    out = rearrange(out, "b (h w) n d -> b h w (n d)", h=rows)
    out = Linear(width, dtype=self.dtype, name="to_out_0")(out)
    return mix(x, out, self.balance)
