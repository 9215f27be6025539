"""Residual convolution blocks with a time embedding, and changes of resolution.

x + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))               additive
x + conv2(silu(norm2(conv1(silu(norm1(x)))) (1 + scale) + shift))  scale_shift

With `resample` the block itself halves or doubles the resolution, of x and of
silu(norm1(x)) before conv1.
"""

from einops import reduce, repeat
from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.models import network


class ResnetBlock(nn.Module):
  """A residual block (He et al. 2015) that mixes in the time embedding.

  `additive` is Ho et al. 2020 (2006.11239) and Stable Diffusion, `scale_shift`
  Nichol and Dhariwal 2021 (2102.09672).

  Attributes:
    channels: channels of the output.
    norm_groups: divides the channels of the input and the output.
    time_conditioning: 'additive' or 'scale_shift'; unused without a time.
    zero_init: start as the identity (or the 1x1 shortcut).
    epsilon: of the norms.
    resample: 'keep' the resolution, 'down' to half by means, 'up' to twice by repeated
      pixels (Dhariwal and Nichol 2021, 2105.05233, section 3).
    skip_scale: factor on the output; 1 / sqrt(2) preserves its variance (Song et al.
      2020, 2011.13456).
    dropout: rate before the last convolution; see `network.dropped`.
  """

  channels: int
  norm_groups: int = 32
  time_conditioning: str = "additive"
  zero_init: bool = False
  epsilon: float = 1e-5
  resample: str = "keep"
  skip_scale: float = 1.0
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, time: Array | None = None) -> Array:
    """x [b h w c], time [b d] or None -> [b h w channels]."""

    def norm(name: str, x: Array) -> Array:
      return nn.GroupNorm(
        self.norm_groups, epsilon=self.epsilon, dtype=jnp.float32, name=name
      )(x)

    def conv(name, x, size, init=nn.linear.default_kernel_init):
      module = nn.Conv(
        self.channels, size, kernel_init=init, dtype=self.dtype, name=name
      )
      return module(x.astype(self.dtype))

    last_init = (
      nn.initializers.zeros if self.zero_init else nn.linear.default_kernel_init
    )
    scale_shift = self.time_conditioning == "scale_shift"
    if time is not None:
      width = self.channels * (2 if scale_shift else 1)
      dense = nn.Dense(width, dtype=self.dtype, name="time_emb_proj")
      time = jnp.asarray(dense(nn.silu(time)))[:, None, None]

    h = resampled(nn.silu(norm("norm1", x)), self.resample)
    x = resampled(x, self.resample)
    h = conv("conv1", h, (3, 3))
    if time is None:
      h = norm("norm2", h)
    elif scale_shift:
      scale, shift = jnp.split(time.astype(jnp.float32), 2, axis=-1)
      h = norm("norm2", h) * (1 + scale) + shift
    else:
      h = norm("norm2", h + time)
    h = network.dropped(self, self.dropout, nn.silu(h))
    h = conv("conv2", h, (3, 3), last_init)
    if x.shape[-1] != self.channels:
      x = conv("conv_shortcut", x, (1, 1))
    return x + h if self.skip_scale == 1 else (x + h) * self.skip_scale


def resampled(x: Array, resample: str) -> Array:
  """x [b h w c] at the resolution that 'keep', 'down' or 'up' says."""
  match resample:
    case "keep":
      return x
    case "down":
      return reduce(x, "b (h p) (w q) c -> b h w c", "mean", p=2, q=2)
    case "up":
      return repeat(x, "b h w c -> b (h p) (w q) c", p=2, q=2)
  raise ValueError(f"unknown resample {resample!r}")


class Downsample(nn.Module):
  """[b h w c] -> [b h/2 w/2 c] by a strided convolution.

  Attributes:
    padding: rows and columns of zeros. The default is PyTorch's padding=1; 'SAME' would
      pad the end only.
  """

  padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = nn.Conv(
      x.shape[-1], (3, 3), 2, padding=self.padding, dtype=self.dtype, name="conv"
    )
    return conv(x)


class Upsample(nn.Module):
  """[b h w c] -> [b 2h 2w c]: repeated pixels, then a convolution."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name="conv")
    return conv(resampled(x, "up"))
