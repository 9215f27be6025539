"""What the denoiser works on instead of pixels, and the way back.

pixel   image <-> image
haar    image <-> orthonormal wavelet bands, each scaled to mean 0 and variance 1
kl      image <-> latents of an autoencoder, see `kl_codec`

One Haar level takes each 2x2 block [a b; c d] of each channel to
(a+b+c+d)/2, (a-b+c-d)/2, (a+b-c-d)/2, (a-b-c+d)/2
and halves the side; the next level splits all four bands again. Its inverse is itself.
"""

import dataclasses
from typing import Protocol

from einops import rearrange
import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.models import kl_codec
from cxr_diffusion_jax.types import Array


class Codec(Protocol):
  """An invertible or nearly invertible map between images and latents.

  Attributes:
    columns: fields of a batch that take the place of `image` in `encode_batch`; ()
      where the image itself is encoded.
    params: of a network; None where there is none. A compiled program takes them as an
      argument and hands them to `encode` or `decode`: else they would be constants of
      it. Left out there, they are these.
  """

  @property
  def columns(self) -> tuple[str, ...]: ...

  @property
  def params(self) -> types.Params | None: ...

  def encode(self, image: Array, params: types.Params | None = None) -> jax.Array:
    """Image [b h w 1] in [-1, 1] -> latent [b h' w' c], about unit variance."""

  def encode_batch(self, key: jax.Array | None, batch: types.Batch) -> jax.Array:
    """What training denoises: batch -> latent [b h' w' c], drawn where it is random.

    Args:
      key: of the draw; None for the latent that is drawn on average.
      batch: with `columns`, or with `image`.
    """

  def decode(self, latent: Array, params: types.Params | None = None) -> jax.Array:
    """Latent [b h' w' c] -> image [b h w 1], about [-1, 1]."""

  def latent_shape(self, image_size: int) -> tuple[int, int, int]:
    """(h', w', c) of an image of image_size x image_size."""

  def channel_weights(self) -> np.ndarray:
    """[c] float32, mean 1: how much an error of each channel counts in the loss."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixel:
  """The image itself."""

  columns = ()
  params = None

  def encode(self, image: Array, params: None = None) -> jax.Array:
    """[b h w 1] -> the same, float32."""
    del params
    return jnp.asarray(image, jnp.float32)

  def encode_batch(self, key: jax.Array | None, batch: types.Batch) -> jax.Array:
    """`encode` of the batch's images."""
    del key
    return self.encode(batch["image"])

  def decode(self, latent: Array, params: None = None) -> jax.Array:
    """[b h w 1] -> the same, float32."""
    del params
    return jnp.asarray(latent, jnp.float32)

  def latent_shape(self, image_size: int) -> tuple[int, int, int]:
    """(image_size, image_size, 1)."""
    return image_size, image_size, 1

  def channel_weights(self) -> np.ndarray:
    """[1] of 1."""
    return np.ones(1, np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Haar:
  """An orthonormal wavelet packet with standardised bands. Exact to rounding.

  Attributes:
    levels: L; the side shrinks by 2^L, the channels grow to 4^L.
    mean: [4^L] of each band over the training images.
    std: [4^L] likewise, > 0.
    loss_power: p of the loss's weight std_b^p of band b. 0 counts all bands alike,
      although the lowest of 16 holds most of an image; 2 counts errors as they show
      in pixels.

  Raises:
    InputError: statistics of another number of bands.
  """

  columns = ()
  params = None

  levels: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  loss_power: float = 1.0

  def __post_init__(self):
    wanted = 4**self.levels
    if len(self.mean) != wanted or len(self.std) != wanted:
      raise errors.InputError(
        f"{len(self.mean)} means and {len(self.std)} stds for {self.levels} levels",
        f"{wanted} of each",
      )
    if min(self.std) <= 0:
      raise errors.InputError(f"a band's std of {min(self.std)}", "above 0")

  def encode(self, image: Array, params: None = None) -> jax.Array:
    """[b h w 1] -> [b h/2^L w/2^L 4^L].

    Raises:
      InputError: a side is not divisible by 2^L.
    """
    del params
    self.latent_shape(image.shape[1])
    self.latent_shape(image.shape[2])
    x = jnp.asarray(image, jnp.float32)
    for _ in range(self.levels):
      blocks = rearrange(x, "b (h p) (w q) c -> b h w (p q) c", p=2, q=2)
      x = rearrange(_butterfly(blocks), "b h w band c -> b h w (band c)")
    return (x - np.float32(self.mean)) / np.float32(self.std)

  def encode_batch(self, key: jax.Array | None, batch: types.Batch) -> jax.Array:
    """`encode` of the batch's images."""
    del key
    return self.encode(batch["image"])

  def decode(self, latent: Array, params: None = None) -> jax.Array:
    """[b h w 4^L] -> [b 2^L*h 2^L*w 1]."""
    del params
    x = jnp.asarray(latent, jnp.float32) * np.float32(self.std) + np.float32(self.mean)
    for _ in range(self.levels):
      blocks = rearrange(x, "b h w (band c) -> b h w band c", band=4)
      x = rearrange(_butterfly(blocks), "b h w (p q) c -> b (h p) (w q) c", p=2, q=2)
    return x

  def latent_shape(self, image_size: int) -> tuple[int, int, int]:
    """(image_size / 2^L, image_size / 2^L, 4^L).

    Raises:
      InputError: image_size is not divisible by 2^L.
    """
    if image_size % 2**self.levels:
      raise errors.InputError(
        f"image size {image_size} with {self.levels} Haar levels",
        f"a multiple of {2**self.levels}",
        "change the image size or the number of levels",
      )
    side = image_size // 2**self.levels
    return side, side, 4**self.levels

  def channel_weights(self) -> np.ndarray:
    """[4^L] float32: std^loss_power over its mean."""
    weights = np.float32(self.std) ** np.float32(self.loss_power)
    return weights / weights.mean()


def load(name: str) -> type[Codec]:
  """The constructor of the codec of this name.

  Raises:
    InputError: no codec has this name.
  """
  found = {"pixel": Pixel, "haar": Haar, "kl": kl_codec.Kl}
  if name not in found:
    raise errors.InputError(f"unknown codec {name!r}", f"one of {sorted(found)}")
  return found[name]


def _butterfly(x: jax.Array) -> jax.Array:
  """The symmetric orthonormal 4x4 transform of axis -2."""
  a, b, c, d = (x[..., i, :] for i in range(4))
  bands = (a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d)
  return 0.5 * jnp.stack(bands, axis=-2)
