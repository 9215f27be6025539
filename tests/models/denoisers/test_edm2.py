"""EDM2's network: magnitudes stay, sizes of weights say nothing, masks hide."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models.denoisers import edm2
from cxr_diffusion_jax.models.denoisers.edm2 import EDM2
from cxr_diffusion_jax.types import StreamSpec, TokenStream

STREAMS = (
  StreamSpec(name="map", num_tokens=4, width=6, grid=(2, 2)),
  StreamSpec(name="text", num_tokens=3, width=5),
)


def _inputs(batch=2, side=8, channels=3):
  keys = jax.random.split(jax.random.key(0), 3)
  context = tuple(
    TokenStream(
      tokens=jax.random.normal(key, (batch, spec.num_tokens, spec.width)),
      mask=jnp.ones((batch, spec.num_tokens), bool),
    )
    for key, spec in zip(keys[1:], STREAMS, strict=True)
  )
  x_t = jax.random.normal(keys[0], (batch, side, side, channels))
  return x_t, jnp.linspace(100.0, 900.0, batch), context


def _net(**changes) -> EDM2:
  settings = {
    "out_channels": 2,
    "block_channels": (32, 64),
    "num_layers": 1,
    "attention": (False, True),
    "head_width": 16,
    "context_width": 32,
    "context_streams": STREAMS,
    "query_positions": True,
    "feature_layer": 2,
  }
  return EDM2(**{**settings, **changes})


@pytest.fixture(scope="module")
def small():
  """A small network's compiled call, that tells of its blocks too, and parameters."""
  net = _net()
  shapes = jax.eval_shape(net.init, jax.random.key(1), *_inputs())["params"]
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    # As they begin, which to compile takes longer than all else here.
    wide = path[-1].key == "kernel"
    scale = leaf.shape[0] ** -0.5 if wide else float("gain" not in path[-1].key)
    return np.float32(scale * rng.standard_normal(leaf.shape))

  params = jax.tree_util.tree_map_with_path(draw, shapes)

  @jax.jit
  def apply(params, x_t, t, context):
    out, seen = net.apply(
      {"params": params},
      x_t,
      t,
      context,
      mutable=["intermediates"],
      capture_intermediates=lambda module, _: isinstance(module, edm2.Block),
    )
    return out, seen["intermediates"]

  return apply, params


def test_edm2_weights_turn_by_the_learning_rate():
  net, inputs = _net(unit_context=True), _inputs()
  shapes = jax.eval_shape(net.init, jax.random.key(1), *inputs)["params"]
  rng = np.random.default_rng(0)
  params = _open(
    jax.tree.map(lambda leaf: np.float32(rng.standard_normal(leaf.shape)), shapes)
  )
  target = rng.standard_normal((*inputs[0].shape[:3], 2))

  optimizer = optax.adam(0.01)

  @jax.jit
  def update_of(params):
    gradient = jax.grad(
      lambda params: jnp.square(net.apply({"params": params}, *inputs) - target).mean()
    )(params)
    return optimizer.update(gradient, optimizer.init(params))[0]

  updates = jax.device_get(update_of(params))
  turned = {}
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(updates), strict=True
  )
  for (path, before), update in pairs:
    if np.size(before) > 1:
      angle = np.linalg.norm(update) / np.linalg.norm(before)
      turned[jax.tree_util.keystr(path)] = float(angle)
  assert any("project_map" in name for name in turned)
  for name, angle in turned.items():
    assert 0.005 < angle < 0.02, (name, angle)


def _open(params, gain=1.0):
  """With gains that let time, context and output through."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: np.full_like(leaf, gain) if "gain" in path[-1].key else leaf,
    params,
  )


def test_edm2_output_is_zero_at_the_start(small):
  apply, params = small
  out, _ = apply(params, *_inputs())
  np.testing.assert_array_equal(out, np.zeros((2, 8, 8, 2), np.float32))
  assert out.dtype == jnp.float32
  shapes = jax.eval_shape(_net().init, jax.random.key(0), *_inputs())["params"]
  gains = [leaf for leaf in jax.tree.leaves(shapes) if leaf.ndim == 0]
  assert len(gains) == 11


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_edm2_blocks_keep_the_magnitude(gain, small):
  """A standard deviation of 1 goes in, and comes out of each of them."""
  apply, params = small
  params = {**_open(params, gain), "out_gain": jnp.float32(1)}
  out, seen = apply(params, *_inputs(batch=2))
  seen = {name: blocks for name, blocks in seen.items() if name != "features"}
  assert len(seen) == 10
  for name, block in seen.items():
    (values,) = block["__call__"]
    rms = float(jnp.sqrt(jnp.mean(jnp.square(values))))
    # Attention averages what it sees, which takes some of it, as in the paper.
    assert 0.65 < rms < 1.25, (name, rms)
  assert 0.6 < float(jnp.std(out)) < 1.3


def test_edm2_ignores_the_length_of_weights(small):
  apply, params = small
  params = _open(params)

  def scaled(path, leaf):
    larger = 7.0 if len(path) % 2 else 0.2
    return leaf * larger if path[-1].key == "weight" else leaf

  (out, _), (same, _) = (
    apply(tree, *_inputs())
    for tree in (params, jax.tree_util.tree_map_with_path(scaled, params))
  )
  assert np.std(out) > 0.5
  np.testing.assert_allclose(out, same, atol=2e-5)


def test_edm2_ignores_only_masked_tokens(small):
  apply, params = small
  params = _open(params)
  x_t, t, (one, two) = _inputs()
  two = two.replace(mask=two.mask.at[:, 1:].set(False))
  spoilt = two.replace(tokens=two.tokens.at[:, 1:].set(jnp.nan))
  seen = two.replace(tokens=two.tokens.at[:, 0, 0].add(1.0))
  want, *others = (apply(params, x_t, t, (one, s))[0] for s in (two, spoilt, seen))
  np.testing.assert_array_equal(want, others[0])
  assert np.abs(want - others[1]).max() > 1e-3
  # Without any condition it still says something.
  none = tuple(s.replace(mask=jnp.zeros_like(s.mask)) for s in (one, two))
  assert np.all(np.isfinite(apply(params, x_t, t, none)[0]))


def test_edm2_depends_on_time_and_sows_features(small):
  apply, params = small
  x_t, t, context = _inputs()
  early, _ = apply(_open(params), x_t, t, context)
  late, seen = apply(_open(params), x_t, t + 50, context)
  assert np.abs(early - late).max() > 1e-2
  (features,) = seen["features"]
  assert features.shape == (2, 4, 4, 64)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"attention": (True,)}, "one entry for each level"),
    ({"head_width": 24}, "64 channels with heads of 24; expected a head_width that"),
    ({"block_channels": (32,) * 5, "attention": (False,) * 5}, "multiples of 16"),
    ({"context_streams": STREAMS[:1]}, "expected .*'map'"),
  ],
)
def test_edm2_refuses_wrong_sizes(changes, message):
  with pytest.raises(errors.InputError, match=message):
    jax.eval_shape(_net(**changes).init, jax.random.key(0), *_inputs())


def test_edm2_smallest_size_is_that_of_the_paper():
  """124.7 M parameters in table 2; ours has cross-attention and a context besides."""
  net = EDM2(out_channels=4)
  x_t = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x_t, jnp.zeros(1), ())
  leaves = jax.tree_util.tree_leaves_with_path(shapes["params"])
  besides = ("attn2", "context_embedder")
  millions = sum(
    leaf.size
    for path, leaf in leaves
    if not any(entry.key in besides for entry in path)
  )
  # Without its table of 1000 classes, 512 wide.
  np.testing.assert_allclose(millions / 1e6, 124.7 - 0.512, atol=0.1)
