"""Codecs: invertible, orthonormal, standardised, and a contract for all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import codec


def _haar(levels, mean=0.0, std=1.0):
  bands = 4**levels
  return codec.Haar(levels=levels, mean=(mean,) * bands, std=(std,) * bands)


@pytest.fixture(scope="module")
def image():
  """[3 16 16 1] in [-1, 1]."""
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (3, 16, 16, 1)).astype(np.float32)


@pytest.mark.parametrize(
  "coder",
  [codec.Pixel(), _haar(1), _haar(2, 0.3, 0.7), _haar(3)],
  ids=["pixel", "haar1", "haar2", "haar3"],
)
def test_codec_fulfils_its_contract(coder, image):
  latent = jax.jit(coder.encode)(image)
  assert latent.shape[1:] == coder.latent_shape(16)
  assert latent.dtype == jnp.float32
  np.testing.assert_allclose(jax.jit(coder.decode)(latent), image, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_haar_is_orthonormal(levels, image):
  latent = jax.jit(_haar(levels).encode)(image)
  np.testing.assert_allclose(
    jnp.sum(latent**2, axis=(1, 2, 3)), np.sum(image**2, axis=(1, 2, 3)), rtol=1e-5
  )


def test_haar_bands_and_their_order():
  block = np.float32([[1, 2], [3, 5]]).reshape(1, 2, 2, 1)
  bands = jax.jit(_haar(1).encode)(block)[0, 0, 0]
  np.testing.assert_allclose(bands, [5.5, -1.5, -2.5, 0.5])
  # A second level splits every band: channel = band * 4 + band of the level before.
  encode = jax.jit(_haar(2).encode)
  constant = np.ones((1, 4, 4, 1), np.float32)
  np.testing.assert_allclose(encode(constant)[0, 0, 0], [4] + [0] * 15)
  stripes = np.tile(np.float32([1, -1, 1, -1]).reshape(1, 1, 4, 1), (1, 4, 1, 1))
  second = np.asarray(encode(stripes))[0, 0, 0]
  assert np.flatnonzero(second).tolist() == [1]


def test_haar_standardises(image):
  plain = np.asarray(jax.jit(_haar(2).encode)(image))
  mean, std = plain.mean(axis=(0, 1, 2)), plain.std(axis=(0, 1, 2))
  coder = codec.Haar(levels=2, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
  latent = np.asarray(jax.jit(coder.encode)(image))
  np.testing.assert_allclose(latent.mean(axis=(0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(latent.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_haar_refuses_wrong_sizes_and_statistics(image):
  with pytest.raises(errors.InputError, match="multiple of 4"):
    _haar(2).latent_shape(66)
  with pytest.raises(errors.InputError, match="multiple of 8"):
    _haar(3).encode(image[:, :12])
  with pytest.raises(errors.InputError, match="16 of each"):
    codec.Haar(levels=2, mean=(0.0,) * 4, std=(1.0,) * 4)
  with pytest.raises(errors.InputError, match="above 0"):
    _haar(1, std=0.0)


def test_channel_weights_follow_the_bands_spread():
  haar = codec.Haar(levels=1, mean=(0.0,) * 4, std=(4.0, 2.0, 1.0, 1.0))
  np.testing.assert_allclose(haar.channel_weights(), [2.0, 1.0, 0.5, 0.5])
  even = dataclasses.replace(haar, loss_power=0.0)
  np.testing.assert_array_equal(even.channel_weights(), np.ones(4))
  np.testing.assert_array_equal(codec.Pixel().channel_weights(), np.ones(1))


def test_haar_squared_weights_count_errors_as_pixels_do():
  std = (2.0, 1.0, 0.5, 0.25)
  haar = codec.Haar(levels=1, mean=(0.0,) * 4, std=std, loss_power=2.0)
  error = np.random.default_rng(0).normal(size=(3, 4, 4, 4)).astype(np.float32)
  in_pixels = np.mean(np.square(jax.jit(haar.decode)(error)))
  weighted = np.mean(haar.channel_weights() * np.square(error))
  np.testing.assert_allclose(in_pixels, weighted * np.mean(np.square(std)), rtol=1e-5)
