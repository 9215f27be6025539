"""Codecs: maps between images and the latents that the denoiser works on.

pixel   image <-> image
haar    image <-> orthonormal wavelet bands, each scaled to mean 0 and variance 1
kl      image <-> latents of an autoencoder, see `kl_codec`

One Haar level maps each 2x2 block [a b; c d] of each channel to
(a+b+c+d)/2, (a-b+c-d)/2, (a+b-c-d)/2, (a-b-c+d)/2
and halves the side; the next level splits all four bands again. Its inverse is itself.
"""

import dataclasses
from typing import Protocol

from einops import rearrange
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types


class Codec(Protocol):
  """An invertible or nearly invertible map between images and latents.

  Attributes:
    columns: batch fields that `encode_batch` reads instead of `image`; () for none.
    params: parameters of the codec's network, None without one: the default of `encode`
      and `decode`. Compiled programs pass them, so that they are no constants.
    mode_variance: variance of the latents along their first principal component, over
      the training images; 0 where it was not measured.
  """

  @property
  def columns(self) -> tuple[str, ...]: ...

  @property
  def params(self) -> types.Params | None: ...

  @property
  def mode_variance(self) -> float: ...

  def encode(self, image: Array, params: types.Params | None = None) -> Array:
    """Image [b h w 1] in [-1, 1] -> latent [b h' w' c], about unit variance."""
    ...

  def encode_batch(self, key: Array | None, batch: types.Batch) -> Array:
    """Batch -> the latents to denoise [b h' w' c]; without a key, their means."""
    ...

  def decode(self, latent: Array, params: types.Params | None = None) -> Array:
    """Latent [b h' w' c] -> image [b h w 1], about [-1, 1]."""
    ...

  def latent_shape(self, image_size: int) -> tuple[int, int, int]:
    """(h', w', c) of an image of image_size x image_size."""
    ...

  def channel_weights(self) -> np.ndarray:
    """[c] float32, mean 1: weight of each channel's error in the loss."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Haar:
  """An orthonormal wavelet packet with standardised bands. Exact to rounding.

  Attributes:
    levels: L; the side shrinks by 2^L, the channels grow to 4^L.
    mean: [4^L] means of the bands over the training images.
    std: [4^L] standard deviations of the bands, > 0.
    loss_power: p of the loss weight std_b^p of band b. 0 weighs all bands equally,
      although the lowest of 16 holds most of an image; 2 weighs errors as pixels do.
    mode_variance: see `Codec`.
  """

  columns = ()
  params = None

  levels: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  loss_power: float = 1.0
  mode_variance: float = 0.0

  def __post_init__(self):
    num_bands = 4**self.levels
    if len(self.mean) != num_bands or len(self.std) != num_bands:
      raise errors.InputError(
        f"{len(self.mean)} means and {len(self.std)} stds for {self.levels} levels",
        f"{num_bands} of each",
      )
    if min(self.std) <= 0:
      raise errors.InputError(f"a band's std of {min(self.std)}", "above 0")

  def encode(self, image: Array, params: None = None) -> Array:
    """[b h w 1] -> [b h/2^L w/2^L 4^L]; 2^L must divide h and w."""
    del params
    self.latent_shape(image.shape[1])
    self.latent_shape(image.shape[2])
    x = jnp.asarray(image, jnp.float32)
    for _ in range(self.levels):
      blocks = rearrange(x, "b (h p) (w q) c -> b h w (p q) c", p=2, q=2)
      x = rearrange(_butterfly(blocks), "b h w band c -> b h w (band c)")
    mean, std = (np.asarray(x, np.float32) for x in (self.mean, self.std))
    return (x - mean) / std

  def encode_batch(self, key: Array | None, batch: types.Batch) -> Array:
    return self.encode(jnp.asarray(batch["image"]))

  def decode(self, latent: Array, params: None = None) -> Array:
    """[b h w 4^L] -> [b 2^L*h 2^L*w 1]."""
    del params
    mean, std = (np.asarray(x, np.float32) for x in (self.mean, self.std))
    x = jnp.asarray(latent, jnp.float32) * std + mean
    for _ in range(self.levels):
      blocks = rearrange(x, "b h w (band c) -> b h w band c", band=4)
      x = rearrange(_butterfly(blocks), "b h w (p q) c -> b (h p) (w q) c", p=2, q=2)
    return x

  def latent_shape(self, image_size: int) -> tuple[int, int, int]:
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
    weights = np.asarray(self.std, np.float32) ** np.float32(self.loss_power)
    return weights / weights.mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixel(Haar):
  """The image itself: no level, and nothing to standardise."""

  levels: int = 0
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)


def _butterfly(x: Array) -> Array:
  """The symmetric orthonormal 4x4 transform of axis -2."""
  a, b, c, d = (x[..., i, :] for i in range(4))
  bands = (a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d)
  return 0.5 * jnp.stack(bands, axis=-2)
