"""A KL autoencoder whose parameter tree is that of diffusers' AutoencoderKL.

image -> encoder -> quant_conv -> mean, logvar;  latent = mean + exp(logvar / 2) noise
latent -> post_quant_conv -> decoder -> image

Rombach et al. 2022 (2112.10752), section 3.1 and appendix G. Each level but the last
halves the side, so `block_channels` of three entries is f4 and of four is f8. As in the
UNet, a published name becomes a path here by writing '_' for the '.' before a list
index: encoder.down_blocks.0.resnets.1.conv1 -> encoder/down_blocks_0/resnets_1/conv1.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models.autoencoder_blocks import Block, MidBlock, Style
from cxr_diffusion_jax.types import Array

# Of the published autoencoders: exp of these stays a number in float32.
LOGVAR_RANGE = (-30.0, 20.0)


def sample_posterior(key: Array, mean: Array, logvar: Array) -> jax.Array:
  """Draws a latent [b h w z] of the normal distribution that `encode` tells.

  Args:
    key: of the noise.
    mean: [b h w z].
    logvar: [b h w z], the logarithm of the variance.
  """
  noise = jax.random.normal(key, mean.shape, jnp.float32)
  return mean + jnp.exp(0.5 * logvar) * noise


def kl_divergence(mean: Array, logvar: Array) -> jax.Array:
  """Divergence of each posterior from the standard normal, in nats: [b].

  Kingma and Welling 2013 (1312.6114), appendix B:
  sum over the latent's numbers of (mean^2 + var - 1 - logvar) / 2.

  Args:
    mean: [b h w z].
    logvar: [b h w z].
  """
  each = 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar)
  return each.sum(axis=(1, 2, 3))


class Encoder(nn.Module):
  """[b h w c] -> [b h' w' out_channels] by blocks that halve the side.

  Attributes:
    style: shared by all blocks.
    out_channels: twice the latent's.
    block_channels: of each level, highest resolution first.
    num_layers: resnets a level.
  """

  style: Style
  out_channels: int
  block_channels: tuple[int, ...]
  num_layers: int

  @nn.compact
  def __call__(self, x: Array) -> jax.Array:
    last = len(self.block_channels) - 1
    dtype = self.style.dtype
    x = nn.Conv(self.block_channels[0], (3, 3), dtype=dtype, name="conv_in")(x)
    for i, channels in enumerate(self.block_channels):
      resample = "down" if i < last else ""
      block = Block(
        self.style, channels, self.num_layers, resample, name=f"down_blocks_{i}"
      )
      x = block(x)
    x = MidBlock(self.style, name="mid_block")(x)
    x = nn.silu(self.style.norm("conv_norm_out")(x))
    # Float32 from here on: the posterior's width is an exponential of this.
    return nn.Conv(self.out_channels, (3, 3), name="conv_out")(x)


class Decoder(nn.Module):
  """[b h' w' z] -> [b h w out_channels]: as `Encoder` backwards, a resnet more a level.

  Attributes:
    style: shared by all blocks.
    out_channels: of the image.
    block_channels: of each level, highest resolution first.
    num_layers: resnets a level, one less than there are.
  """

  style: Style
  out_channels: int
  block_channels: tuple[int, ...]
  num_layers: int

  @nn.compact
  def __call__(self, x: Array) -> jax.Array:
    last = len(self.block_channels) - 1
    dtype = self.style.dtype
    x = nn.Conv(self.block_channels[-1], (3, 3), dtype=dtype, name="conv_in")(x)
    x = MidBlock(self.style, name="mid_block")(x)
    for i, channels in enumerate(reversed(self.block_channels)):
      resample = "up" if i < last else ""
      block = Block(
        self.style, channels, self.num_layers + 1, resample, name=f"up_blocks_{i}"
      )
      x = block(x)
    x = nn.silu(self.style.norm("conv_norm_out")(x))
    return nn.Conv(self.out_channels, (3, 3), name="conv_out")(x)


class AutoencoderKL(nn.Module):
  """Images to normal distributions of latents, and back. Defaults: Stable Diffusion.

  Attributes:
    in_channels: of the image.
    out_channels: of the decoded image.
    latent_channels: z of the latent.
    block_channels: of each level, highest resolution first; f = 2^(levels - 1).
    num_layers: resnets a level of the encoder; the decoder has one more.
    norm_groups: divides every level's channels.
    mid_attention: whether the lowest resolution has attention.
    scaling_factor: latents are denoised as (latent - shift_factor) * scaling_factor;
      `encode` and `decode` leave both to the codec.
    shift_factor: see scaling_factor.
    remat: make activations anew in the backward pass, for memory.
    dtype: of the computation; parameters, norms and moments are float32.
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

  def setup(self):
    style = Style(
      norm_groups=self.norm_groups,
      mid_attention=self.mid_attention,
      remat=self.remat,
      dtype=self.dtype,
    )
    shape = (self.block_channels, self.num_layers)
    self.encoder = Encoder(style, 2 * self.latent_channels, *shape)
    self.decoder = Decoder(style, self.out_channels, *shape)
    self.quant_conv = nn.Conv(2 * self.latent_channels, (1, 1))
    self.post_quant_conv = nn.Conv(self.latent_channels, (1, 1))

  @property
  def factor(self) -> int:
    """Pixels of the image along a side for each place of the latent."""
    return 2 ** (len(self.block_channels) - 1)

  def encode(self, image: Array) -> tuple[jax.Array, jax.Array]:
    """Image [b h w c] in [-1, 1] -> mean and logvar [b h' w' z], unscaled, float32.

    Raises:
      errors.InputError: the image has not `in_channels`, or the factor does not
        divide its sides.
    """
    self._check(image)
    moments = self.quant_conv(self.encoder(image))
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, *LOGVAR_RANGE)

  def decode(self, latent: Array) -> jax.Array:
    """Latent [b h' w' z], unscaled -> image [b h w c], about [-1, 1], float32."""
    return self.decoder(self.post_quant_conv(latent))

  def __call__(self, image: Array) -> jax.Array:
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
    if any(side % self.factor for side in image.shape[1:3]):
      raise errors.InputError(
        f"an image of {image.shape[1]}x{image.shape[2]} for an autoencoder of factor"
        f" {self.factor}",
        f"sides that are multiples of {self.factor}",
      )
