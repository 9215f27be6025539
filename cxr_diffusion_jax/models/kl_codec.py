"""The codec `kl`: latents of an AutoencoderKL, read from a precomputed column.

prepare: image --encode--> mean, logvar --> column `latent` [h' w' 2z]
train:   x0 = (mean + exp(logvar / 2) noise - shift) * scaling    (noise is optional)
sample:  x0 / scaling + shift --decode--> image

Latent diffusion: Rombach et al. 2022 (2112.10752), section 3. Images are grey: an
autoencoder with three channels gets the image in each, and its output is averaged.
Sides above 512 pixels are processed in overlapping tiles.
"""

from collections.abc import Callable
import dataclasses
import fractions
import functools

from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.models import tiles

# The name of the column and of the batch field.
COLUMN = "latent"

# Pixels along a tile's side, the size that published autoencoders were trained on, and
# pixels that neighbours share, enough to hide the seams.
TILE, OVERLAP = 512, 128

POSTERIORS = ("mean", "sample")

# Images of 512 x 512 per device: about 8 GB in Stable Diffusion's autoencoder.
_AT_ONCE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kl:
  """Latents of an AutoencoderKL, scaled to about unit variance.

  Attributes:
    autoencoder: the network.
    load_params: () -> its parameters; called on first use.
    scaling_factor: factor on latents, > 0.
    shift_factor: subtracted before.
    posterior: train on latents drawn from each image's posterior ('sample') or on its
      'mean'.

  Raises:
    errors.InputError: a value out of range.
  """

  autoencoder: autoencoder_lib.AutoencoderKL
  load_params: Callable[[], types.Params]
  scaling_factor: float
  shift_factor: float = 0.0
  posterior: str = "sample"

  def __post_init__(self):
    if self.posterior not in POSTERIORS:
      raise errors.InputError(
        f"config.codec.posterior={self.posterior!r}", " or ".join(POSTERIORS)
      )
    if not 0 < self.scaling_factor < float("inf"):
      raise errors.InputError(
        f"config.codec.scaling_factor={self.scaling_factor}", "a number above 0"
      )

  @property
  def columns(self) -> tuple[str, ...]:
    return (COLUMN,)

  @functools.cached_property
  def params(self) -> types.Params:
    return self.load_params()

  def encode(self, image: Array, params: types.Params | None = None) -> Array:
    """[b h w 1] in [-1, 1] -> [b h/f w/f z], the posterior's mean."""
    params = self.params if params is None else params
    mean, _ = jnp.split(moments(self.autoencoder, params, image), 2, axis=-1)
    return self._scaled(mean)

  def encode_batch(self, key: Array | None, batch: types.Batch) -> Array:
    """`latent` [b h' w' 2z] of a batch -> [b h' w' z]; without a key, the mean."""
    stored = jnp.asarray(batch[COLUMN], jnp.float32)
    mean, logvar = jnp.split(stored, 2, axis=-1)
    if key is not None and self.posterior == "sample":
      mean = autoencoder_lib.sample_posterior(key, mean, logvar)
    return self._scaled(mean)

  def decode(self, latent: Array, params: types.Params | None = None) -> Array:
    """[b h' w' z] -> [b f*h' f*w' 1], about [-1, 1]."""
    params = self.params if params is None else params
    unscaled = jnp.asarray(latent, jnp.float32) / self.scaling_factor
    return image_of(self.autoencoder, params, unscaled + self.shift_factor)

  def latent_shape(self, image_size: int) -> tuple[int, int, int]:
    """(image_size / f, image_size / f, z)."""
    check_side(self.autoencoder, image_size)
    side = image_size // self.autoencoder.factor
    return side, side, self.autoencoder.latent_channels

  def channel_weights(self) -> np.ndarray:
    """[z] of 1."""
    return np.ones(self.autoencoder.latent_channels, np.float32)

  def _scaled(self, latent: Array) -> Array:
    return (latent - self.shift_factor) * self.scaling_factor


def moments(
  autoencoder: autoencoder_lib.AutoencoderKL, params: types.Params, image: Array
) -> Array:
  """Grey images [b h w 1] in [-1, 1] -> mean, logvar [b h/f w/f 2z], unscaled, float32.

  Raises:
    errors.InputError: the factor f does not divide the sides.
  """
  # The sides of tiles always fit.
  check_side(autoencoder, image.shape[1])
  check_side(autoencoder, image.shape[2])

  def encode(part):
    part = jnp.repeat(part, autoencoder.in_channels, axis=-1)
    mean, logvar = autoencoder.apply({"params": params}, part, method="encode")
    return jnp.concatenate([jnp.asarray(mean), jnp.asarray(logvar)], axis=-1)

  return tiles.blend(
    encode,
    jnp.asarray(image, jnp.float32),
    tile=TILE,
    overlap=OVERLAP,
    scale=fractions.Fraction(1, autoencoder.factor),
  )


def image_of(
  autoencoder: autoencoder_lib.AutoencoderKL, params: types.Params, latent: Array
) -> Array:
  """Unscaled latents [b h' w' z] -> grey images [b f*h' f*w' 1], about [-1, 1]."""

  def decode(part):
    image = jnp.asarray(autoencoder.apply({"params": params}, part, method="decode"))
    return image.mean(axis=-1, keepdims=True)

  return tiles.blend(
    decode,
    latent,
    tile=TILE // autoencoder.factor,
    overlap=OVERLAP // autoencoder.factor,
    scale=fractions.Fraction(autoencoder.factor),
  )


def check_side(autoencoder: autoencoder_lib.AutoencoderKL, side: int) -> None:
  """Raises InputError unless the autoencoder's factor divides a side."""
  if side % autoencoder.factor:
    raise errors.InputError(
      f"image size {side} with an autoencoder of factor {autoencoder.factor}",
      f"a multiple of {autoencoder.factor}",
      "change config.data.image_size or the autoencoder",
    )


def rows_at_once(image_size: int) -> int:
  """Number of images of this side that one device encodes or decodes at once."""
  return min(64, _AT_ONCE * TILE**2 // min(image_size, TILE) ** 2)
