"""Similarity of two images, pixel by pixel.

psnr    -10 log10(mean squared difference), for values in [0, 1]
ssim    mean over places of luminance x contrast x structure in a Gaussian window
ms_ssim product over halved sizes of contrast x structure, luminance at the smallest

A reconstruction should be similar (fidelity of a codec), two images of one condition
should not (diversity). Images are [b h w c] float in [0, 1]; the figure of an image is
the mean over its channels.
"""

from einops import rearrange
import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.types import Array

# Wang et al. 2004 (section III-C) and 2003 (section 3.2).
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(x: Array, y: Array) -> jax.Array:
  """Peak signal-to-noise ratio in dB of each pair: [b], infinite for equal images.

  Raises:
    errors.InputError: shapes that differ.
  """
  x, y = _pair(x, y)
  return -10 * jnp.log10(jnp.square(x - y).mean(axis=(1, 2, 3)))


def ssim(x: Array, y: Array) -> jax.Array:
  """Structural similarity of each pair: [b] in [-1, 1], 1 for equal images.

  Wang et al. 2004, "Image quality assessment: from error visibility to structural
  similarity", equation 13, with their 11x11 Gaussian window of sigma 1.5. Only windows
  entirely inside the image count.

  Raises:
    errors.InputError: shapes that differ, or images smaller than the window.
  """
  x, y = _pair(x, y, smallest=WINDOW)
  similarity, _ = _maps(_planes(x), _planes(y))
  return _by_image(similarity, x.shape).mean(axis=-1)


def ms_ssim(x: Array, y: Array) -> jax.Array:
  """Multi-scale structural similarity of each pair: [b] in [0, 1], 1 for equal images.

  Wang et al. 2003, "Multiscale structural similarity for image quality assessment",
  equation 7, with its five weights; sizes are halved by means of 2x2 pixels, or of the
  pixels there are at an odd edge. Five scales need sides of 161 pixels. Smaller images
  have as many scales as fit (`num_scales`: 4 from 81, 3 from 41, 2 from 21), with
  weights of the same sum: compare such figures only for images of the same size. A
  negative contrast x structure counts as 0, since its power is undefined.

  Raises:
    errors.InputError: shapes that differ, or images smaller than the window.
  """
  x, y = _pair(x, y, smallest=WINDOW)
  shape = x.shape
  weights = scale_weights(min(shape[1:3]))
  product = jnp.ones((shape[0], shape[3]))
  x, y = _planes(x), _planes(y)
  for scale, weight in enumerate(weights):
    last = scale == len(weights) - 1
    similarity, contrast = _maps(x, y)
    value = _by_image(similarity if last else contrast, shape)
    product *= jnp.maximum(value, 0.0) ** float(weight)
    if not last:
      x, y = _halved(x), _halved(y)
  return product.mean(axis=-1)


def num_scales(side: int) -> int:
  """How many of the five scales fit into images of this side; 0 below 11."""
  scales = 0
  while scales < len(SCALE_WEIGHTS) and side >= WINDOW:
    scales, side = scales + 1, -(-side // 2)
  return scales


def scale_weights(side: int) -> np.ndarray:
  """The weights [num_scales] that `ms_ssim` gives the scales of images of this side."""
  weights = np.array(SCALE_WEIGHTS[: num_scales(side)])
  return weights / weights.sum() * sum(SCALE_WEIGHTS)


def _maps(x: Array, y: Array) -> tuple[jax.Array, jax.Array]:
  """Similarity, and its factor contrast x structure, at each window."""
  c1, c2 = K1**2, K2**2
  planes = jnp.stack([x, y, x * x, y * y, x * y])
  mean_x, mean_y, xx, yy, xy = _windowed(planes)
  contrast = (2 * (xy - mean_x * mean_y) + c2) / (
    (xx - mean_x**2) + (yy - mean_y**2) + c2
  )
  luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
  return luminance * contrast, contrast


def _windowed(planes: Array) -> jax.Array:
  """Weighted means [k n h-10 w-10] of planes [k n h w]: a Gaussian along each axis."""
  down, across = (_band(side) for side in planes.shape[2:])
  # Float32 throughout: variances are small differences of these means.
  return jnp.einsum("knhw,ih,jw->knij", planes, down, across, precision="highest")


def _band(side: int) -> np.ndarray:
  """[side-10 side]: row i has the window's weights from column i on."""
  offset = np.arange(side) - np.arange(side - WINDOW + 1)[:, None]
  weight = np.exp(-0.5 * ((offset - WINDOW // 2) / SIGMA) ** 2)
  weight = np.where((offset >= 0) & (offset < WINDOW), weight, 0)
  return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def _halved(x: jax.Array) -> jax.Array:
  """[n h w] -> [n ceil(h/2) ceil(w/2)], means of 2x2."""
  h, w = x.shape[1:]
  # The mean of a pixel and its copy is the pixel.
  x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2)), mode="edge")
  return rearrange(x, "n (h p) (w q) -> n h w p q", p=2, q=2).mean(axis=(-1, -2))


def _by_image(value: Array, shape: tuple[int, ...]) -> jax.Array:
  """Means over places of [(b c) h w]: [b c]."""
  return jnp.asarray(value).mean(axis=(1, 2)).reshape(shape[0], shape[3])


def _planes(x: jax.Array) -> jax.Array:
  return rearrange(x, "b h w c -> (b c) h w")


def _pair(x: Array, y: Array, smallest: int = 1) -> tuple[jax.Array, jax.Array]:
  x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  if x.shape != y.shape or x.ndim != 4:
    raise errors.InputError(
      f"images {list(x.shape)} and {list(y.shape)}", "two of one shape [b h w c]"
    )
  height, width = x.shape[1:3]
  if min(height, width) < smallest:
    raise errors.InputError(
      f"images of {height}x{width} pixels", f"sides of {smallest} or more"
    )
  return x, y
