"""The autoencoder: shapes, closed forms, and what it refuses.

That its numbers are diffusers' own is tested in tests/interop/test_diffusers.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.models import unet_blocks


def _network(**fields) -> autoencoder_lib.AutoencoderKL:
  settings = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 3,
    "block_channels": (4, 8),
    "num_layers": 1,
    "norm_groups": 2,
  }
  return autoencoder_lib.AutoencoderKL(**{**settings, **fields})


def test_autoencoder_halves_the_side_at_each_level_but_the_last():
  for channels, factor in (((4,), 1), ((4, 4, 4), 4), ((4, 4, 4, 4), 8)):
    network = _network(block_channels=channels)
    assert network.factor == factor
    image = jnp.zeros((2, 16, 24, 1))
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    mean, logvar = jax.eval_shape(
      lambda v, image, n=network: n.apply(v, image, method="encode"), shapes, image
    )
    assert mean.shape == logvar.shape == (2, 16 // factor, 24 // factor, 3)
    result = jax.eval_shape(
      lambda v, z, n=network: n.apply(v, z, method="decode"), shapes, mean
    )
    assert result.shape == image.shape
    up = [name for name in shapes["params"]["decoder"]["up_blocks_0"] if "res" in name]
    # One resnet more than on the way down.
    assert sorted(up) == ["resnets_0", "resnets_1"]


def test_autoencoder_decodes_the_mean_with_and_without_remat(draw):
  network = _network(block_channels=(4,))
  image = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, 4, 1)))
  variables = draw(network, image)
  again = _network(block_channels=(4,), remat=True)

  @jax.jit
  def both(variables):
    mean, _ = network.apply(variables, image, method="encode")
    return network.apply(variables, mean, method="decode"), again.apply(
      variables, image
    )

  one, other = both(variables)
  np.testing.assert_allclose(one, other, atol=1e-5)


def test_kl_divergence_and_sample_posterior_equal_closed_forms():
  mean = jnp.full((2, 2, 2, 3), 0.5)
  logvar = jnp.full((2, 2, 2, 3), np.log(4.0))
  expected = 12 * 0.5 * (0.25 + 4 - 1 - np.log(4))
  kl = autoencoder_lib.kl_divergence(mean, logvar)
  np.testing.assert_allclose(kl, [expected] * 2, rtol=1e-6)
  standard = autoencoder_lib.kl_divergence(jnp.zeros((1, 1, 1, 2)), jnp.zeros(()))
  assert float(standard[0]) == 0
  many = jnp.full((1, 64, 64, 4), 0.5)
  drawn = autoencoder_lib.sample_posterior(jax.random.key(0), many, np.log(4.0))
  assert float(drawn.mean()) == pytest.approx(0.5, abs=0.06)
  assert float(drawn.std()) == pytest.approx(2, abs=0.06)


def test_downsample_pads_only_right_and_below():
  layer = unet_blocks.Downsample(autoencoder_lib.DOWNSAMPLE_PADDING)
  ones = {"conv": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}
  result = layer.apply({"params": ones}, jnp.ones((1, 4, 4, 1)))[0, ..., 0]
  np.testing.assert_array_equal(result, [[9, 6], [6, 4]])


@pytest.mark.parametrize(
  ("shape", "fields", "message"),
  [
    ((1, 8, 9, 1), {}, "input of 8x9 .* multiples of 2"),
    ((1, 8, 8, 3), {}, "3 channels .* expected 1"),
    ((1, 8, 8, 1), {"norm_groups": 3}, "4 channels with 3 norm groups"),
  ],
)
def test_autoencoder_refuses_wrong_sizes(shape, fields, message):
  with pytest.raises(errors.InputError, match=message):
    jax.eval_shape(_network(**fields).init, jax.random.key(0), jnp.zeros(shape))
