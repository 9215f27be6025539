"""Blocks in a loop compute what they compute one after the other."""

import functools
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import attention, block_scan, network, placement
from cxr_diffusion_jax.models.denoisers import dit
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.types import StreamSpec, TokenStream

STREAM = StreamSpec(name="map", num_tokens=5, width=6, grid=(2, 2), num_leading=1)


def _dit(**changes):
  settings = dict(out_channels=2, depth=3, width=16, num_heads=2, qk_norm=True)
  return dit.DiT(**{**settings, "context_streams": (STREAM,), **changes})


def _inputs(batch=2):
  rng = np.random.default_rng(1)
  tokens = rng.standard_normal((batch, 5, 6), np.float32)
  context = (TokenStream(tokens=tokens, mask=np.ones((batch, 5), bool)),)
  x_t = rng.standard_normal((batch, 4, 6, 2), np.float32)
  return x_t, np.linspace(100, 900, batch, dtype=np.float32), context


def _loss_and_grad(model, inputs):
  """variables -> (loss of outputs and features, outputs and features), gradient."""

  def loss(variables):
    result = model.apply(variables, *inputs, mutable="intermediates")
    return sum((leaf**2).mean() for leaf in jax.tree.leaves(result)), result

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def _assert_trees_close(got, want, tolerance):
  """Within a share of the largest number of the tree."""
  assert jax.tree.structure(got) == jax.tree.structure(want)
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(want))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * largest)


def test_scanned_dit_equals_the_unrolled_one(draw):
  """Outputs, features and gradients, and the tree of parameters."""
  inputs, kind = _inputs(), functools.partial(_dit, remat=True, feature_layer=0)
  models = [kind(scan_blocks=scan) for scan in (False, True)]
  trees = [jax.eval_shape(m.init, jax.random.key(0), *inputs) for m in models]
  assert trees[0] == trees[1]
  variables = draw(models[0], *inputs)
  want, got = (_loss_and_grad(model, inputs)(variables) for model in models)
  _assert_trees_close(got, want, 1e-5)


def test_scanned_spatial_transformer_equals_the_unrolled_one(draw):
  x = np.random.default_rng(0).standard_normal((2, 3, 4, 8), np.float32)
  context = TokenStream(tokens=x[:, 0], mask=np.ones((2, 4), bool))
  kind = functools.partial(
    attention.SpatialTransformer, 2, 3, norm_groups=2, query_positions=True
  )
  variables = draw(kind(), x, context)
  want, got = (
    _loss_and_grad(kind(scan_blocks=scan), (x, context))(variables)
    for scan in (False, True)
  )
  _assert_trees_close(got, want, 1e-5)


def test_scanned_blocks_share_one_program():
  """The program of a scanned network does not grow with its depth."""

  def num_products(depth):
    model, inputs = _dit(depth=depth, scan_blocks=True), _inputs()
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return str(jax.make_jaxpr(model.apply)(shapes, *inputs)).count("dot_general")

  assert num_products(2) == num_products(4)


def test_scanned_dit_keeps_parameters_divided(draw):
  """With FSDP, a round of the loop gathers the parameters of its block, not of all."""
  inputs = _inputs(batch=8)
  model = _dit(width=64, qk_norm=False, scan_blocks=True)
  variables = draw(model, *inputs, scale=0.1)
  mesh = mesh_lib.make_mesh(data=1, fsdp=8)
  places = sharding.state_shardings(variables, mesh, dit.DiT.tensor_parallel)
  batch = sharding.batch_sharding(mesh)
  step = jax.jit(
    placement.on_mesh(mesh)(
      lambda variables, inputs: _loss_and_grad(model, inputs)(variables)
    ),
    in_shardings=(places, batch),
    out_shardings=(sharding.replicated(mesh), places),
  )
  compiled = step.lower(variables, inputs).compile()
  placed = jax.device_put(variables, places), jax.device_put(inputs, batch)
  (_, (got, _)), _ = compiled(*placed)
  want = jax.jit(model.clone(scan_blocks=False).apply)(variables, *inputs)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather", compiled.as_text())
  gathered = [shape.removeprefix("1,") for shape in gathered]
  assert {"64,384", "64,256", "256,64"} <= set(gathered), "kernels of one block"
  # Nor the activations of the whole batch.
  assert not any(shape.startswith(("3,", "8,6,")) for shape in gathered), gathered


class _Dropping(nn.Module):
  @nn.compact
  def __call__(self, x):
    scale = self.param("kernel", nn.initializers.ones, ())
    return jnp.concatenate(
      [x[1:], network.dropped(self, 0.5, scale * jnp.ones_like(x[:1]))]
    )


class _Stack(nn.Module):
  scan: bool

  @nn.compact
  def __call__(self, x):
    names = [f"blocks_{i}" for i in range(len(x))]
    return block_scan.apply_blocks(
      self, _Dropping, (), names, x, scan=self.scan, remat=False, dtype=x.dtype
    )


@pytest.mark.parametrize("scan", [False, True])
def test_blocks_drop_by_the_key_and_by_their_place(scan):
  x = jnp.zeros((4, 64))
  variables = _Stack(scan).init(jax.random.key(0), x)
  np.testing.assert_array_equal(_Stack(scan).apply(variables, x), np.ones((4, 64)))

  def masks(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return np.asarray(_Stack(scan).apply(variables, x, rngs=rngs)) > 0

  np.testing.assert_array_equal(masks(1), masks(1))
  assert len(np.unique([*masks(1), *masks(2)], axis=0)) == 8
  assert 0.4 < masks(1).mean() < 0.6


def test_scanned_blocks_never_gather_the_batch():
  mesh = mesh_lib.make_mesh(data=1, fsdp=8)
  network = dit.DiT(
    depth=2, width=128, num_heads=1, patch_size=1, scan_blocks=True, pooled=False
  )
  x_t, t = jnp.zeros((16, 4, 5, 4)), jnp.zeros(16)
  params = jax.eval_shape(network.init, jax.random.key(0), x_t, t, ())["params"]
  parameters = sharding.state_shardings(params, mesh, network.tensor_parallel)
  rows = sharding.batch_sharding(mesh)

  @placement.on_mesh(mesh)
  def gradient(params, x_t, t):
    def loss(params):
      return jnp.mean(network.apply({"params": params}, x_t, t, ()) ** 2)

    return jax.grad(loss)(params)

  jitted = jax.jit(
    gradient, in_shardings=(parameters, rows, rows), out_shardings=parameters
  )
  text = jitted.lower(params, x_t, t).compile().as_text()
  # 16 samples of 20 tokens; a device has 2.
  assert "[2,20,128]" in text
  assert "[16,20," not in text
