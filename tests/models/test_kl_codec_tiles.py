"""Tiles put together are the whole, as far as a function looks no further than they."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import kl_codec

HALF = fractions.Fraction(1, 2)
TWICE = fractions.Fraction(2)


@pytest.fixture(scope="module")
def image():
  """[2 36 52 1] of small numbers."""
  return jax.random.normal(jax.random.key(0), (2, 36, 52, 1))


def _halve(x):
  """Means of 2x2 blocks, twice: [b h w 1] -> [b h/2 w/2 2]."""
  b, h, w, _ = x.shape
  means = x.reshape(b, h // 2, 2, w // 2, 2).mean(axis=(2, 4))
  return jnp.stack([means, 2 * means], axis=-1)


def _double(x):
  return x.repeat(2, axis=1).repeat(2, axis=2)


@pytest.mark.parametrize(("fn", "scale"), [(_halve, HALF), (_double, TWICE)])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 4), (16, 0), (20, 14), (40, 8)])
def test_blend_of_a_blockwise_function_is_exact(fn, scale, tile, overlap, image):
  result = kl_codec.blend(fn, image, tile=tile, overlap=overlap, scale=scale)
  assert result.shape == fn(image).shape
  np.testing.assert_allclose(result, fn(image), rtol=1e-5, atol=1e-6)


def test_one_tile_is_the_function_itself(image):
  seen = []

  def fn(x):
    seen.append(x.shape)
    return x

  result = kl_codec.blend(fn, image, tile=52, overlap=8, scale=fractions.Fraction(1))
  assert result is image
  assert seen == [image.shape]


def test_blend_hides_errors_at_the_edges():
  """Zeros beyond a tile's edge darken what a blur says of the places beside it."""
  kernel = jnp.ones((3, 3, 1, 1)) / 9

  def blur(x):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=dimensions
    )

  grey = jnp.ones((1, 40, 40, 1))
  errors = [
    np.abs(
      kl_codec.blend(blur, grey, tile=16, overlap=overlap, scale=fractions.Fraction(1))
      - blur(grey)
    ).max()
    for overlap in (0, 4, 12)
  ]
  assert errors[0] > 0.3
  assert errors[1] < 0.15
  assert errors[2] < 0.07


def test_starts_cover_a_side():
  assert kl_codec.starts(1024, 512, 128) == [0, 384, 512]
  assert kl_codec.starts(512, 512, 128) == [0]
  assert kl_codec.starts(896, 512, 128) == [0, 384]
  with pytest.raises(ValueError, match="overlap of 8"):
    kl_codec.blend(_double, jnp.ones((1, 9, 9, 1)), tile=8, overlap=8, scale=TWICE)
