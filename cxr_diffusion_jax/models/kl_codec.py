"""The codec `kl`: latents of an AutoencoderKL, read from a precomputed column.

prepare: image --encode--> mean, logvar --> column `latent` [h' w' 2z]
train:   x0 = (mean + exp(logvar / 2) noise - shift) * scaling    (noise is optional)
sample:  x0 / scaling + shift --decode--> image

Latent diffusion: Rombach et al. 2022 (2112.10752), section 3. Images are grey: an
autoencoder with three channels gets the image in each, and its output is averaged.
Sides above 512 pixels are processed in overlapping tiles, and their outputs averaged
with weights that fall linearly towards a tile's edges over the overlap.
"""

from collections.abc import Callable
import dataclasses
import fractions
import functools

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib

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
    load_params: () -> the network's parameters; called on first use.
    scaling_factor: factor on latents, > 0; `shift_factor` is subtracted before.
    posterior: train on latents drawn from each image's posterior ('sample') or on its
      'mean'.
    mode_variance: see `codec.Codec`.
  """

  autoencoder: autoencoder_lib.AutoencoderKL
  load_params: Callable[[], types.Params]
  scaling_factor: float
  shift_factor: float = 0.0
  posterior: str = "sample"
  mode_variance: float = 0.0

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
    check_side(self.autoencoder, image_size)
    side = image_size // self.autoencoder.factor
    return side, side, self.autoencoder.latent_channels

  def channel_weights(self) -> np.ndarray:
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

  return blend(
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

  return blend(
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


def blend(
  fn: Callable[[Array], Array],
  x: Array,
  *,
  tile: int,
  overlap: int,
  scale: fractions.Fraction,
) -> Array:
  """Applies a function of images tile by tile, or once if one tile is enough.

  Args:
    fn: [b t u c] -> [b scale*t scale*u d], with t and u at most `tile`.
    x: [b h w c].
    tile: the side of a tile.
    overlap: least number of pixels that neighbours share. Scaled, it, tile - overlap,
      h and w must be whole numbers.
    scale: factor of a side by `fn`.

  Returns [b scale*h scale*w d].
  """
  if not 0 <= overlap < tile:
    raise ValueError(f"an overlap of {overlap} of tiles of {tile}")
  b, height, width, channels = x.shape
  if max(height, width) <= tile:
    return fn(x)
  t, u = min(height, tile), min(width, tile)
  places = [
    (top, left)
    for top in starts(height, tile, overlap)
    for left in starts(width, tile, overlap)
  ]

  def one(place):
    return fn(jax.lax.dynamic_slice(x, (0, *place, 0), (b, t, u, channels)))

  # One after the other, in the memory of one tile and with one program.
  blocks = jax.lax.map(
    one, tuple(jnp.array(place) for place in zip(*places, strict=True))
  )
  sides = [int(side * scale) for side in (height, width, t, u, overlap)]
  weight = np.outer(_ramp(sides[2], sides[4]), _ramp(sides[3], sides[4]))[..., None]
  whole = jnp.zeros((b, *sides[:2], blocks.shape[-1]), blocks.dtype)
  total = np.zeros((*sides[:2], 1), np.float32)
  for values, (top, left) in zip(blocks, places, strict=True):
    top, left = int(top * scale), int(left * scale)
    part = (slice(top, top + sides[2]), slice(left, left + sides[3]))
    whole = whole.at[:, *part].add(values * weight)
    total[part] += weight
  return whole / total


def starts(side: int, tile: int, overlap: int) -> list[int]:
  """First pixels of the tiles along a side; the last tile ends with the side."""
  return [*range(0, max(side - tile, 0), tile - overlap), max(side - tile, 0)]


def _ramp(side: int, overlap: int) -> np.ndarray:
  """[side] weights in (0, 1] that rise over the overlap from both ends."""
  if not overlap:
    return np.ones(side, np.float32)
  inside = np.arange(side) + 0.5
  nearest = np.minimum(inside, inside[::-1])
  return np.minimum(nearest / overlap, 1.0).astype(np.float32)
