"""A KL autoencoder with the parameter tree of diffusers' AutoencoderKL.

image -> encoder -> quant_conv -> mean, logvar;  latent = mean + exp(logvar / 2) noise
latent -> post_quant_conv -> decoder -> image

Rombach et al. 2022 (2112.10752), section 3.1 and appendix G. Each level but the last
halves the side, so `block_channels` with three entries is f4 and with four is f8. As in
the UNet, a published name becomes a path here by writing '_' for the '.' before a list
index: encoder.down_blocks.0.resnets.1.conv1 -> encoder/down_blocks_0/resnets_1/conv1.
"""

import dataclasses

from einops import rearrange
from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models.attention import TENSOR_PARALLEL, attend
from cxr_diffusion_jax.models.network import check_sides, shared_fields
from cxr_diffusion_jax.models.unet_blocks import Downsample, ResnetBlock, Upsample

# The range of published autoencoders; its exponentials are finite in float32.
LOGVAR_RANGE = (-30.0, 20.0)

# Zeros on the right and below only, unlike in the UNet.
DOWNSAMPLE_PADDING = ((0, 1), (0, 1))


def sample_posterior(key: Array, mean: Array, logvar: Array) -> Array:
  """Draws a latent [b h w z] from the normal distribution (mean, logvar) [b h w z]."""
  noise = jax.random.normal(key, mean.shape, jnp.float32)
  return mean + jnp.exp(0.5 * logvar) * noise


def kl_divergence(mean: Array, logvar: Array) -> Array:
  """Divergence of each posterior [b h w z] from the standard normal, in nats: [b].

  Sum of (mean^2 + var - 1 - logvar) / 2 (Kingma and Welling 2013, 1312.6114, appendix
  B).
  """
  each = 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar)
  return each.sum(axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
  """Settings that all blocks of one autoencoder share; see `AutoencoderKL`."""

  norm_groups: int
  mid_attention: bool
  remat: bool
  dtype: jnp.dtype

  def resnet(self, channels: int, name: str) -> nn.Module:
    """A residual block without time."""
    kind = nn.remat(ResnetBlock) if self.remat else ResnetBlock
    return kind(
      channels, norm_groups=self.norm_groups, epsilon=1e-6, dtype=self.dtype, name=name
    )

  def norm(self, name: str) -> nn.Module:
    """A float32 normalisation."""
    return nn.GroupNorm(self.norm_groups, epsilon=1e-6, dtype=jnp.float32, name=name)


class PlacesAttention(nn.Module):
  """x + attention of every place to all places, one head over all channels."""

  style: Style

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w c]."""
    height, channels = x.shape[1], x.shape[3]
    dtype = self.style.dtype
    h = self.style.norm("group_norm")(x).astype(dtype)
    h = rearrange(h, "b h w c -> b (h w) c")

    def project(name: str) -> Array:
      out = nn.Dense(channels, dtype=dtype, name=name)(h)
      return rearrange(out, "b n c -> b n 1 c")

    out = attend(project("to_q"), project("to_k"), project("to_v"))
    out = nn.Dense(channels, dtype=dtype, name="to_out_0")(out[:, :, 0])
    return x + rearrange(out, "b (h w) c -> b h w c", h=height)


class Block(nn.Module):
  """`num_layers` resnets of one resolution, then 'keep', 'down' or 'up' of the size."""

  style: Style
  channels: int
  num_layers: int
  resample: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h' w' channels]."""
    for i in range(self.num_layers):
      x = self.style.resnet(self.channels, f"resnets_{i}")(x)
    dtype = self.style.dtype
    if self.resample == "down":
      x = Downsample(DOWNSAMPLE_PADDING, dtype, name="downsamplers_0")(x)
    elif self.resample == "up":
      x = Upsample(dtype, name="upsamplers_0")(x)
    return x


class MidBlock(nn.Module):
  """Resnet, attention, resnet at the lowest resolution."""

  style: Style

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w c]."""
    channels = x.shape[-1]
    x = self.style.resnet(channels, "resnets_0")(x)
    if self.style.mid_attention:
      x = PlacesAttention(self.style, name="attentions_0")(x)
    return self.style.resnet(channels, "resnets_1")(x)


class Encoder(nn.Module):
  """[b h w c] -> [b h' w' out_channels]; fields as of `AutoencoderKL`."""

  style: Style
  out_channels: int
  block_channels: tuple[int, ...]
  num_layers: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    last = len(self.block_channels) - 1
    dtype = self.style.dtype
    x = nn.Conv(self.block_channels[0], (3, 3), dtype=dtype, name="conv_in")(x)
    for i, channels in enumerate(self.block_channels):
      resample, name = "down" if i < last else "keep", f"down_blocks_{i}"
      x = Block(self.style, channels, self.num_layers, resample, name=name)(x)
    x = MidBlock(self.style, name="mid_block")(x)
    x = nn.silu(self.style.norm("conv_norm_out")(x))
    # Float32 from here on, because the posterior's width is its exponential.
    return nn.Conv(self.out_channels, (3, 3), name="conv_out")(x)


class Decoder(Encoder):
  """[b h' w' z] -> [b h w out_channels]: an `Encoder` backwards, with deeper levels."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    last = len(self.block_channels) - 1
    dtype = self.style.dtype
    x = nn.Conv(self.block_channels[-1], (3, 3), dtype=dtype, name="conv_in")(x)
    x = MidBlock(self.style, name="mid_block")(x)
    for i, channels in enumerate(reversed(self.block_channels)):
      resample, name = "up" if i < last else "keep", f"up_blocks_{i}"
      x = Block(self.style, channels, self.num_layers + 1, resample, name=name)(x)
    x = nn.silu(self.style.norm("conv_norm_out")(x))
    return nn.Conv(self.out_channels, (3, 3), name="conv_out")(x)


class AutoencoderKL(nn.Module):
  """Images to normal distributions of latents, and back. Defaults: Stable Diffusion.

  Attributes:
    latent_channels: z of the latent.
    block_channels: channels of each level, highest resolution first;
      f = 2^(levels - 1).
    num_layers: resnets per level of the encoder; the decoder has one more.
    norm_groups: groups of every normalisation; divides every level's channels.
    mid_attention: whether the lowest resolution has attention.
    scaling_factor: latents are denoised as (latent - shift_factor) * scaling_factor.
      `encode` and `decode` leave both to the codec.
    remat: recompute activations in the backward pass, to save memory.
  """

  in_channels: int = 3
  out_channels: int = 3
  latent_channels: int = 4
  block_channels: tuple[int, ...] = (128, 256, 512, 512)
  num_layers: int = 2
  norm_groups: int = 32
  mid_attention: bool = True
  scaling_factor: float = 0.18215
  shift_factor: float = 0.0
  remat: bool = False
  dtype: jnp.dtype = jnp.float32

  tensor_parallel = TENSOR_PARALLEL

  def setup(self):
    style = shared_fields(Style, self)
    shape = (self.block_channels, self.num_layers)
    self.encoder = Encoder(style, 2 * self.latent_channels, *shape)
    self.decoder = Decoder(style, self.out_channels, *shape)
    self.quant_conv = nn.Conv(2 * self.latent_channels, (1, 1))
    self.post_quant_conv = nn.Conv(self.latent_channels, (1, 1))

  @property
  def factor(self) -> int:
    """f: the image's side over the latent's."""
    return 2 ** (len(self.block_channels) - 1)

  def encode(self, image: Array) -> tuple[Array, Array]:
    """Image [b h w c] in [-1, 1] -> mean and logvar [b h' w' z], unscaled, float32.

    Raises:
      errors.InputError: another number of channels, or f does not divide the sides.
    """
    self._check(image)
    moments = self.quant_conv(self.encoder(image))
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, *LOGVAR_RANGE)

  def decode(self, latent: Array) -> Array:
    """Latent [b h' w' z], unscaled -> image [b h w c], about [-1, 1], float32."""
    return self.decoder(self.post_quant_conv(latent))

  def __call__(self, image: Array) -> Array:
    """Image -> the image decoded from its posterior's mean."""
    return self.decode(self.encode(image)[0])

  def _check(self, image: Array) -> None:
    for channels in self.block_channels:
      if channels % self.norm_groups:
        raise errors.InputError(
          f"{channels} channels with {self.norm_groups} norm groups",
          "groups that divide the channels",
        )
    if image.shape[-1] != self.in_channels:
      raise errors.InputError(
        f"an image of {image.shape[-1]} channels for the autoencoder",
        f"{self.in_channels}",
      )
    check_sides(
      image.shape[1:3], self.factor, f"an autoencoder of factor {self.factor}"
    )
