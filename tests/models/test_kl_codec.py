"""The codec of an autoencoder: scaled latents, from images or from their column."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.models import kl_codec


@pytest.fixture(scope="module")
def autoencoder():
  """f2, three channels, three numbers a place."""
  return autoencoder_lib.AutoencoderKL(
    latent_channels=3,
    block_channels=(4, 4),
    num_layers=1,
    norm_groups=2,
    mid_attention=False,
  )


@pytest.fixture(scope="module")
def params(autoencoder, draw):
  return draw(autoencoder, jnp.zeros((1, 8, 8, 3)))["params"]


@pytest.fixture(scope="module")
def image():
  """[2 8 8 1] in [-1, 1]."""
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)


@pytest.fixture
def codec(autoencoder, params):
  return kl_codec.Kl(
    autoencoder=autoencoder,
    load_params=lambda: params,
    scaling_factor=0.5,
    shift_factor=0.1,
  )


def test_kl_codec_is_the_scaled_network(codec, autoencoder, params, image):
  colour = np.repeat(image, 3, axis=-1)
  encode = jax.jit(lambda x: autoencoder.apply({"params": params}, x, method="encode"))
  decode = jax.jit(lambda z: autoencoder.apply({"params": params}, z, method="decode"))
  mean, _ = encode(colour)
  latent = jax.jit(codec.encode)(image)
  assert latent.shape[1:] == codec.latent_shape(8) == (4, 4, 3)
  np.testing.assert_allclose(latent, 0.5 * (mean - 0.1), atol=1e-6)
  np.testing.assert_allclose(
    jax.jit(codec.decode)(latent),
    decode(mean).mean(axis=-1, keepdims=True),
    rtol=1e-4,
    atol=1e-5,
  )
  np.testing.assert_array_equal(codec.channel_weights(), np.ones(3))


def test_params_are_taken_if_given(codec, params, image):
  zeros = jax.tree.map(jnp.zeros_like, params)
  assert np.abs(jax.jit(codec.encode)(image, zeros) + 0.05).max() < 1e-6
  assert np.abs(jax.jit(codec.decode)(np.ones((1, 4, 4, 3)), zeros)).max() == 0


def test_kl_codec_programs_hold_no_parameters(codec, image):
  lowered = jax.jit(codec.encode).lower(image, codec.params)
  # A constant of the network would stand here with all its numbers.
  assert len(lowered.as_text()) < 100_000
  assert 'dense<"0x' not in lowered.as_text()


def test_kl_codec_encodes_batches_to_draws_or_means(codec):
  mean, logvar = np.full((4000, 1, 1, 3), 0.6), np.full((4000, 1, 1, 3), np.log(0.04))
  batch = {"latent": np.concatenate([mean, logvar], axis=-1).astype(np.float16)}
  drawn = codec.encode_batch(jax.random.key(0), batch)
  assert drawn.shape == (4000, 1, 1, 3)
  # (0.6 - 0.1) * 0.5 and 0.2 * 0.5; three standard errors of 12,000 numbers.
  np.testing.assert_allclose(drawn.mean(), 0.25, atol=3 * 0.1 / 12_000**0.5)
  np.testing.assert_allclose(drawn.std(), 0.1, rtol=0.02)
  assert not np.array_equal(drawn, codec.encode_batch(jax.random.key(1), batch))
  fixed = dataclasses.replace(codec, posterior="mean")
  for means in (
    codec.encode_batch(None, batch),
    fixed.encode_batch(jax.random.key(0), batch),
  ):
    np.testing.assert_allclose(means, 0.25, atol=1e-3)


def test_kl_loads_parameters_lazily(autoencoder, params, image):
  loaded = []

  def load():
    loaded.append(1)
    return params

  codec = kl_codec.Kl(autoencoder=autoencoder, load_params=load, scaling_factor=1.0)
  assert codec.latent_shape(16) == (8, 8, 3)
  codec.encode_batch(None, {"latent": np.zeros((1, 2, 2, 6))})
  assert not loaded
  assert codec.params is codec.params
  assert loaded == [1]


def test_moments_and_image_of_large_sides_are_tiled(monkeypatch, autoencoder, params):
  monkeypatch.setattr(kl_codec, "TILE", 16)
  monkeypatch.setattr(kl_codec, "OVERLAP", 8)
  shapes = []
  apply = autoencoder_lib.AutoencoderKL.apply

  def watch(self, variables, x, **options):
    shapes.append(x.shape)
    return apply(self, variables, x, **options)

  monkeypatch.setattr(autoencoder_lib.AutoencoderKL, "apply", watch)
  image = np.zeros((1, 24, 16, 1), np.float32)
  moments = jax.eval_shape(lambda x: kl_codec.moments(autoencoder, params, x), image)
  assert moments.shape == (1, 12, 8, 6)
  latent = np.zeros((1, 12, 8, 3), np.float32)
  decoded = jax.eval_shape(lambda z: kl_codec.image_of(autoencoder, params, z), latent)
  assert decoded.shape == image.shape
  assert shapes == [(1, 16, 16, 3), (1, 8, 8, 3)]


def test_kl_codec_refuses_wrong_inputs(codec, image):
  with pytest.raises(errors.InputError, match=r"size 9 .* factor 2; .*multiple of 2"):
    codec.latent_shape(9)
  with pytest.raises(errors.InputError, match="image size 7"):
    codec.encode(image[:, :7])
  with pytest.raises(errors.InputError, match=r"posterior='mode'; expected mean or"):
    dataclasses.replace(codec, posterior="mode")
  for wrong in (0.0, float("nan")):
    with pytest.raises(errors.InputError, match="scaling_factor"):
      dataclasses.replace(codec, scaling_factor=wrong)


def test_rows_at_once_falls_with_the_image_size():
  assert [kl_codec.rows_at_once(side) for side in (64, 256, 512, 1024)] == [
    64,
    32,
    8,
    8,
  ]
