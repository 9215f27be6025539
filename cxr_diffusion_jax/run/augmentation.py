"""Small random changes of training images, which the network is given as a condition.

image --rotate by <= 5 degrees, shift by <= 4 %, contrast by <= 10 %--> image
changes v [b 4] in [-1, 1] --sin(pi v / 2), cos(pi v / 2)--> one token [b 1 8]

As in Karras et al. 2022 (2206.00364, appendix F.2) the network knows how its image was
changed, so that samples, which are given no such token, show no changes. Images are
never flipped: that would move the heart.
"""

import math

import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax import types

# The largest changes: degrees, fractions of the side (down, right), part of the grey.
DEGREES, SHIFT, CONTRAST = 5.0, 0.04, 0.1

STREAM = types.StreamSpec(name="augmentation", num_tokens=1, width=8, optional=True)


def augment(
  key: Array, images: types.Array, rate: float
) -> tuple[Array, types.TokenStream]:
  """Changes a share of the images.

  Args:
    images: [b h w 1] in [-1, 1].
    rate: the share of images that are changed.

  Returns:
    The images, and the token of each image's changes, masked where there are none.
  """
  b = images.shape[0]
  change_key, chosen_key = jax.random.split(key)
  changes = jax.random.uniform(change_key, (b, 4), minval=-1.0, maxval=1.0)
  chosen = jax.random.bernoulli(chosen_key, rate, (b,))
  changes = jnp.where(chosen[:, None], changes, 0.0)
  changed = jnp.where(chosen[:, None, None, None], change(images, changes), images)
  angles = 0.5 * jnp.pi * changes
  tokens = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
  return changed, types.TokenStream(tokens=tokens[:, None], mask=chosen[:, None])


def change(images: types.Array, changes: Array) -> Array:
  """Rotates, shifts and scales grey values; what comes into view repeats the border.

  Args:
    images: [b h w 1] in [-1, 1].
    changes: [b 4] in [-1, 1], parts of the largest clockwise rotation, shift down,
      shift to the right, and contrast.

  Returns:
    [b h w 1] in [-1, 1].
  """
  images = jnp.asarray(images, jnp.float32)
  rows, columns = images.shape[1:3]
  down, right = jnp.meshgrid(
    jnp.arange(rows) - 0.5 * (rows - 1),
    jnp.arange(columns) - 0.5 * (columns - 1),
    indexing="ij",
  )

  def warp(image: Array, part: Array) -> Array:
    angle = math.radians(DEGREES) * part[0]
    # Where each pixel of the result comes from: undo the shift, then the rotation.
    y, x = down - SHIFT * rows * part[1], right - SHIFT * columns * part[2]
    places = (
      jnp.cos(angle) * y - jnp.sin(angle) * x + 0.5 * (rows - 1),
      jnp.sin(angle) * y + jnp.cos(angle) * x + 0.5 * (columns - 1),
    )
    return jax.scipy.ndimage.map_coordinates(
      image, list(places), order=1, mode="nearest"
    )

  warped = jax.vmap(warp)(images[..., 0], changes)[..., None]
  return jnp.clip(warped * (1 + CONTRAST * changes[:, 3, None, None, None]), -1, 1)
