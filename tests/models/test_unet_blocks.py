"""Residual blocks: what they do at the start, and how they change resolution."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import placement, unet_blocks


@pytest.mark.parametrize("time_conditioning", ["additive", "scale_shift"])
def test_resnet_block_starts_as_the_identity(time_conditioning):
  block = unet_blocks.ResnetBlock(
    8, norm_groups=4, time_conditioning=time_conditioning, zero_init=True
  )
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
  time = jax.random.normal(jax.random.key(1), (2, 16))
  params = jax.jit(block.init)(jax.random.key(2), x, time)["params"]
  apply = jax.jit(block.apply)
  np.testing.assert_array_equal(apply({"params": params}, x, time), x)
  params["conv2"]["kernel"] = jnp.ones_like(params["conv2"]["kernel"])
  first = apply({"params": params}, x, time)
  assert np.max(np.abs(first - apply({"params": params}, x, -time))) > 1e-2


def test_convolutions_stay_apart_on_tpus_only():
  module, x = unet_blocks.Upsample(), np.ones((1, 2, 2, 1), np.float32)
  params = jax.eval_shape(module.init, jax.random.key(0), x)

  def program(platform):
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(devices=np.array([device]))
    apply = placement.on_mesh(mesh)(module.apply)
    return str(jax.make_jaxpr(lambda params: apply(params, x))(params))

  assert program("tpu").count("optimization_barrier") == 2
  assert "optimization_barrier" not in program("gpu") + program("cpu")


def test_downsample_pads_both_sides():
  module = unet_blocks.Downsample()
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  params = module.init(jax.random.key(0), x)["params"]
  kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
  params["conv"]["kernel"] = kernel
  out = module.apply({"params": params}, x)
  # The centre of the first window is the first pixel.
  np.testing.assert_array_equal(out[0, :, :, 0], x[0, ::2, ::2, 0])


def test_upsample_repeats_pixels():
  module = unet_blocks.Upsample()
  x = jnp.arange(4.0).reshape(1, 2, 2, 1)
  params = module.init(jax.random.key(0), x)["params"]
  params["conv"]["kernel"] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
  out = module.apply({"params": params}, x)
  want = np.kron(np.asarray(x[0, :, :, 0]), np.ones((2, 2)))
  np.testing.assert_array_equal(out[0, :, :, 0], want)


@pytest.mark.parametrize("resample", ["down", "up"])
def test_resnet_block_resamples_both_branches_alike(resample):
  """As it begins, it is the resampled input: means of pixels, or pixels repeated."""
  block = unet_blocks.ResnetBlock(
    8, norm_groups=4, zero_init=True, resample=resample, skip_scale=0.5
  )
  rng = np.random.default_rng(0)
  x = np.float32(rng.standard_normal((2, 4, 6, 8)))
  time = np.float32(rng.standard_normal((2, 16)))
  params = jax.jit(block.init)(jax.random.key(2), x, time)["params"]
  assert set(params) == {"conv1", "conv2", "norm1", "norm2", "time_emb_proj"}
  apply = jax.jit(block.apply)
  got = apply({"params": params}, x, time)
  if resample == "down":
    want = x.reshape(2, 2, 2, 3, 2, 8).mean(axis=(2, 4))
  else:
    want = x.repeat(2, axis=1).repeat(2, axis=2)
  np.testing.assert_allclose(got, 0.5 * want, atol=1e-6)
  # The branch is resampled before its convolutions, which see neighbours there.
  params["conv2"]["kernel"] = jnp.ones_like(params["conv2"]["kernel"])
  assert np.max(np.abs(apply({"params": params}, x, time) - got)) > 1e-2
