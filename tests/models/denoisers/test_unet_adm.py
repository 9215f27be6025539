"""The UNet in ADM's and EDM's form: what the options add to the tree, and what not.

That its blocks give the numbers of diffusers' is in `tests/parity/resample.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models.denoisers.unet import UNet

PLAIN = UNet(
  out_channels=2,
  block_channels=(8, 16),
  num_layers=1,
  attention=(False, True),
  head_width=8,
  norm_groups=4,
  context_width=8,
  context_streams=(),
  time_conditioning="scale_shift",
)
INPUTS = (jnp.zeros((1, 4, 6, 2)), jnp.zeros(1), ())


def _shapes(unet: UNet):
  return jax.eval_shape(unet.init, jax.random.key(0), *INPUTS)["params"]


def test_unet_adm_resamples_with_residual_blocks():
  plain, resnets = _shapes(PLAIN), _shapes(PLAIN.clone(resample="resnet"))
  for place, name in (
    ("down_blocks_0", "downsamplers_0"),
    ("up_blocks_0", "upsamplers_0"),
  ):
    assert set(plain[place].pop(name)) == {"conv"}
    result = resnets[place].pop(name)
    assert set(result) == {"conv1", "conv2", "norm1", "norm2", "time_emb_proj"}
    assert result["time_emb_proj"]["kernel"].shape == (
      32,
      2 * result["conv2"]["bias"].shape[0],
    )
  assert jax.tree.structure(plain) == jax.tree.structure(resnets)


def test_unet_adm_scale_of_sums_has_no_parameters():
  half = PLAIN.clone(skip_scale=0.5)
  assert jax.tree.structure(_shapes(half)) == jax.tree.structure(_shapes(PLAIN))

  def products(unet):
    params = _shapes(unet)
    program = jax.make_jaxpr(unet.apply)({"params": params}, *INPUTS)
    return str(program).count(" mul ")

  # Resnets: 1 + 1 down, 2 middle, 2 + 2 up; transformers: 1 down, 1 middle, 2 up.
  assert products(half) - products(PLAIN) == 12


def test_unet_adm_starts_with_the_scale_of_its_sums():
  """Residual branches are zero, so that x is halved by each block that it passes."""
  unet = PLAIN.clone(
    resample="resnet", skip_scale=0.5, block_channels=(8,), attention=(True,)
  )
  x = np.float32(np.random.default_rng(0).standard_normal((1, 4, 4, 2)))
  inputs = (x, *INPUTS[1:])
  unet = unet.clone(feature_layer=1)
  shapes = jax.eval_shape(unet.init, jax.random.key(0), *inputs)["params"]
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    last = any(entry.key in ("conv2", "proj_out") for entry in path)
    return np.float32(rng.standard_normal(leaf.shape) * (not last))

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  _, seen = jax.jit(lambda p: unet.apply(p, *inputs, mutable=["intermediates"]))(
    {"params": variables}
  )
  kernel, bias = variables["conv_in"]["kernel"], variables["conv_in"]["bias"]
  first = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  # Down: resnet and transformer; middle: resnet, transformer, resnet.
  (middle,) = seen["intermediates"]["features"]
  np.testing.assert_allclose(middle, (first + bias) / 2**5, atol=1e-5)


def test_unet_adm_refuses_an_unknown_way_to_resample():
  with pytest.raises(errors.InputError, match=r"unknown resample 'pool'; .*resnet"):
    _shapes(PLAIN.clone(resample="pool"))
