"""The UNet's parameter tree and numbers are diffusers', and its context is honest."""

import importlib.util
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models.denoisers.unet import UNet
from cxr_diffusion_jax.types import StreamSpec, TokenStream


@pytest.fixture(scope="module")
def diffusers_record():
  """What diffusers answered, and the script that asked."""
  folder = pathlib.Path(__file__).parent
  path = folder / "make_diffusers_unet.py"
  spec = importlib.util.spec_from_file_location("make_diffusers_unet", path)
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  return json.loads((folder / "diffusers_unet.json").read_text()), script


def _torch_shapes(params):
  """PyTorch names and shapes [list] of a tree of Flax parameters."""
  shapes = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    keys = [entry.key for entry in path]
    shape = leaf.shape
    if keys[-1] == "kernel":
      shape = (shape[-1], shape[-2], *shape[:-2])
    keys[-1] = "bias" if keys[-1] == "bias" else "weight"
    name = ".".join(re.sub(r"_(\d+)$", r".\1", key) for key in keys)
    # linear_1 and linear_2 are names, not places in a list.
    shapes[name.replace("linear.", "linear_")] = list(shape)
  return shapes


def _to_flax(name, value):
  return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _init_shapes(unet, size=8, channels=4, streams=((77, 768),)):
  context = tuple(
    TokenStream(tokens=jnp.zeros((1, n, d)), mask=jnp.ones((1, n), bool))
    for n, d in streams
  )
  x_t = jnp.zeros((1, size, size, channels))
  return jax.eval_shape(unet.init, jax.random.key(0), x_t, jnp.zeros(1), context)


def _draw(shapes):
  """Random parameters of these shapes; compiling the real `init` takes seconds."""
  rng = np.random.default_rng(0)

  def draw(leaf):
    fan_in = max(leaf.size // leaf.shape[-1], 1)
    return np.float32(rng.normal(size=leaf.shape) / np.sqrt(fan_in))

  return jax.tree.map(draw, shapes)


def test_unet_default_is_stable_diffusion_1_5(diffusers_record):
  record, script = diffusers_record
  params = _init_shapes(UNet())["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 859_520_964
  assert script.digest(_torch_shapes(params)) == record["stable_diffusion_1_5_digest"]


def test_unet_has_the_names_shapes_and_outputs_of_diffusers(diffusers_record):
  record, script = diffusers_record
  unet = UNet(
    block_channels=(16, 32),
    attention=(True, False),
    num_heads=4,
    norm_groups=8,
    context_width=12,
  )
  x_t, t, tokens = script.inputs()
  params = _init_shapes(unet, streams=((5, 12),))["params"]
  assert _torch_shapes(params) == record["shapes"]

  names = iter(_torch_shapes(params).items())

  def fill(leaf):
    name, shape = next(names)
    value = _to_flax(name, script.parameter(name, tuple(shape)))
    assert value.shape == leaf.shape
    return value

  params = jax.tree.map(fill, params)
  context = (TokenStream(tokens=tokens, mask=np.ones((2, 5), bool)),)
  answer = jax.jit(unet.apply)({"params": params}, x_t, t, context)
  expected = np.float32(record["answer"]).reshape(answer.shape)
  assert np.std(expected) > 0.2
  np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def streams():
  """A grid stream and a plain one."""
  return (
    StreamSpec(name="map", num_tokens=4, width=6, grid=(2, 2)),
    StreamSpec(name="text", num_tokens=3, width=5),
  )


@pytest.fixture(scope="module")
def small(streams):
  """A small UNet over two streams, its jitted apply, parameters and inputs."""
  unet = UNet(
    out_channels=2,
    block_channels=(8,),
    num_layers=1,
    attention=(True,),
    num_heads=2,
    norm_groups=4,
    context_width=8,
    context_streams=streams,
    query_positions=True,
    time_conditioning="scale_shift",
    zero_init=False,
  )
  keys = jax.random.split(jax.random.key(0), 4)
  context = tuple(
    TokenStream(
      tokens=jax.random.normal(key, (2, spec.num_tokens, spec.width)),
      mask=jnp.ones((2, spec.num_tokens), bool),
    )
    for key, spec in zip(keys, streams, strict=False)
  )
  x_t = jax.random.normal(keys[2], (2, 4, 4, 2))
  t = jnp.array([100.0, 900.0])
  variables = _draw(jax.eval_shape(unet.init, keys[3], x_t, t, context))
  return unet, jax.jit(unet.apply), variables, x_t, t, context


def test_unet_ignores_masked_tokens(small):
  _, apply, variables, x_t, t, context = small
  keep = jnp.array([True, True, False, False])
  first = context[0].replace(mask=jnp.tile(keep, (2, 1)))
  poison = first.replace(tokens=jnp.where(keep[:, None], first.tokens, jnp.nan))
  expected = apply(variables, x_t, t, (first, context[1]))
  got = apply(variables, x_t, t, (poison, context[1]))
  np.testing.assert_array_equal(got, expected)
  assert not np.allclose(apply(variables, x_t, t, context), expected, atol=1e-3)


def test_unet_with_everything_masked_sees_only_the_null_token(small):
  _, apply, variables, x_t, t, context = small
  dropped = tuple(s.replace(mask=jnp.zeros(s.mask.shape, bool)) for s in context)
  other = tuple(s.replace(tokens=s.tokens * 7 + 1) for s in dropped)
  expected = apply(variables, x_t, t, dropped)
  assert np.all(np.isfinite(expected))
  np.testing.assert_array_equal(apply(variables, x_t, t, other), expected)


def test_unet_ignores_the_scale_of_raw_embeddings(small):
  _, apply, variables, x_t, t, context = small
  scaled = tuple(s.replace(tokens=s.tokens * 40) for s in context)
  expected = apply(variables, x_t, t, context)
  np.testing.assert_allclose(apply(variables, x_t, t, scaled), expected, atol=1e-4)


def test_unet_output_does_not_depend_on_the_batch(small):
  _, apply, variables, x_t, t, context = small
  whole = apply(variables, x_t, t, context)
  other = jax.tree.map(lambda x: x.at[0].set(x[1]), context)
  alone = apply(variables, x_t.at[0].set(5.0), t.at[0].set(3.0), other)
  np.testing.assert_allclose(alone[1], whole[1], atol=1e-6)


def test_unet_without_a_null_token_has_no_empty_softmax_row(small):
  unet, _, _, x_t, _, _ = small
  unet = unet.clone(context_streams=None, context_width=6)
  tokens = jax.random.normal(jax.random.key(1), (2, 3, 6))
  mask = jnp.array([[True, True, False], [False, False, False]])
  stream = TokenStream(tokens=tokens, mask=mask)
  t = jnp.float32(5)
  variables = _draw(jax.eval_shape(unet.init, jax.random.key(2), x_t, t, (stream,)))
  apply = jax.jit(unet.apply)
  answer = apply(variables, x_t, t, (stream,))
  other = stream.replace(tokens=jnp.where(mask[..., None], tokens, 9.0))
  assert np.all(np.isfinite(answer))
  np.testing.assert_array_equal(apply(variables, x_t, t, (other,)), answer)


def test_unet_options_keep_parameter_names(small):
  unet, _, variables, *_ = small
  streams = [(s.num_tokens, s.width) for s in unet.context_streams]
  for change in ({"zero_init": True}, {"remat": True}, {"query_positions": False}):
    other = _init_shapes(unet.clone(**change), 4, 2, streams)
    assert jax.tree.structure(other) == jax.tree.structure(variables)


def test_unet_remat_wraps_every_residual_block(small):
  unet, _, variables, x_t, t, context = small

  def count(unet):
    jaxpr = jax.make_jaxpr(unet.apply)(variables, x_t, t, context)
    return sum(equation.primitive.name == "remat2" for equation in jaxpr.eqns)

  # Down 1 + 1, middle 2 + 1, up 2 + 2: resnets + transformers.
  assert count(unet) == 0
  assert count(unet.clone(remat=True)) == 9


def test_unet_with_zero_init_starts_at_zero(small):
  unet, _, _, x_t, t, context = small

  def last(unet):
    init = jax.jit(lambda key: unet.init(key, x_t, t, context)["params"]["conv_out"])
    return init(jax.random.key(0))

  assert not any(np.any(x) for x in last(unet.clone(zero_init=True)).values())
  assert np.any(last(unet)["kernel"])


def test_unet_pooled_context_adds_parameters_outside_the_published_tree(small):
  unet, _, variables, *_ = small
  plain = _init_shapes(unet.clone(pooled=False), 4, 2, ((4, 6), (3, 5)))["params"]
  pooled = dict(variables["params"])
  assert pooled.pop("context_embedder").keys() - plain.pop(
    "context_embedder"
  ).keys() == {"pooled"}
  assert jax.tree.structure(plain) == jax.tree.structure(pooled)


def test_unet_without_streams_sees_only_the_null_token(small):
  unet, _, _, x_t, t, _ = small
  unet = unet.clone(context_streams=())
  shapes = jax.eval_shape(unet.init, jax.random.key(0), x_t, t, ())["params"]
  assert set(shapes["context_embedder"]) == {"null_token", "pooled"}


def test_unet_in_bfloat16_keeps_parameters_and_output_float32(small):
  unet, apply, variables, x_t, t, context = small
  unet16 = unet.clone(dtype=jnp.bfloat16)
  shapes = jax.eval_shape(unet16.init, jax.random.key(0), x_t, t, context)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
  expected = apply(variables, x_t, t, context)
  got = jax.jit(unet16.apply)(variables, x_t, t, context)
  assert got.dtype == jnp.float32
  assert 0 < np.max(np.abs(got - expected)) < 0.1 * np.max(np.abs(expected))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"attention": (True, True)}, "one entry for each level"),
    ({"norm_groups": 3}, "divide the channels"),
    ({"num_heads": 5}, "divide the channels"),
    ({"head_width": 32}, "divide the channels"),
    ({"time_conditioning": "film"}, "scale_shift"),
    ({"context_streams": None}, "one stream"),
    (
      {"block_channels": (8,) * 4, "attention": (False,) * 4},
      "multiples of 8",
    ),
  ],
)
def test_unet_refuses_wrong_sizes(small, change, message):
  unet, _, _, x_t, t, context = small
  with pytest.raises(errors.InputError, match=message):
    jax.eval_shape(unet.clone(**change).init, jax.random.key(0), x_t, t, context)


def test_unet_refuses_another_context_than_declared(small):
  unet, _, variables, x_t, t, context = small
  with pytest.raises(errors.InputError, match=r"\['map', 'text'\]"):
    jax.eval_shape(unet.apply, variables, x_t, t, context[::-1])
