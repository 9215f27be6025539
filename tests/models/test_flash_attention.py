"""The kernel for TPUs, interpreted on the CPU: narrow and odd heads, meshes, choice."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import (
  attention,
  dit_blocks,
  flash_attention,
  heads,
  placement,
)
from cxr_diffusion_jax.models.denoisers import dit
from cxr_diffusion_jax.parallel import mesh as mesh_lib


def _draw(batch, num_queries, num_keys, heads, width, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(1), 4)
  lengths = (num_queries, num_keys, num_keys, num_queries)
  return [
    jax.random.normal(key, (batch, length, heads, width), dtype)
    for key, length in zip(keys, lengths, strict=True)
  ]


@functools.partial(jax.jit, static_argnums=0)
def _output_and_gradients(implementation, *operands):
  *operands, cotangent = operands
  out, pull = jax.vjp(
    lambda *qkv: attention.attend(*qkv, implementation=implementation), *operands
  )
  return out, *pull(cotangent)


@pytest.mark.parametrize(
  ("heads", "width"),
  [
    (3, 64),  # two heads share 128 lanes, one lane group is half empty
    (1, 72),  # of DiT-XL: padded to 128
  ],
)
def test_flash_attention_pads_heads_to_whole_lanes(heads, width):
  operands = _draw(1, 40, 24, heads, width)
  expected = _output_and_gradients("plain", *operands)
  for got, want in zip(
    _output_and_gradients("flash", *operands), expected, strict=True
  ):
    np.testing.assert_allclose(got, want, atol=3e-6)


def test_flash_attention_prepares_heads_on_the_chip(monkeypatch):
  # Several blocks of queries; heads of 20 channels are padded to 32.
  monkeypatch.setattr(flash_attention, "BLOCK_SCORES", 2**12)
  *operands, cotangent = _draw(2, 40, 40, 3, 20)
  angles = dit_blocks.grid_angles((5, 8), 20)
  scales = 1 + jax.random.normal(jax.random.key(3), (2, 20)) / 4

  @functools.partial(jax.jit, static_argnums=0)
  def compute(implementation, scales, *operands):
    def out(scales, *operands):
      preparation = heads.Preparation(scales=tuple(scales), angles=angles)
      return attention.attend(
        *operands, implementation=implementation, preparation=preparation
      )

    out, pull = jax.vjp(out, scales, *operands)
    return out, *pull(cotangent)

  expected = compute("plain", scales, *operands)
  for got, want in zip(compute("flash", scales, *operands), expected, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_flash_attention_in_bfloat16_is_as_accurate_as_plain():
  operands = _draw(1, 64, 48, 2, 64)
  exact = _output_and_gradients("plain", *operands)
  rounded = [x.astype(jnp.bfloat16) for x in operands]

  def worst(implementation):
    values = _output_and_gradients(implementation, *rounded)
    assert all(value.dtype == jnp.bfloat16 for value in values)
    return max(
      float(jnp.max(jnp.abs(value.astype(jnp.float32) - want)))
      for value, want in zip(values, exact, strict=True)
    )

  assert worst("flash") <= 1.1 * worst("plain")


def test_flash_attention_is_split_over_the_mesh():
  mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
  operands = _draw(4, 16, 24, 4, 64)
  mask = jax.random.bernoulli(jax.random.key(2), 0.6, (4, 24))
  place = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(("data", "fsdp"), None, "tensor")
  )
  placed = [jax.device_put(x, place) for x in operands]

  def loss(operands, implementation):
    *qkv, cotangent = operands
    return jnp.sum(attention.attend(*qkv, mask, implementation) * cotangent)

  gradient = jax.grad(placement.on_mesh(mesh)(loss))
  compiled = jax.jit(gradient, static_argnums=1).lower(placed, "flash").compile()
  # Each device works on its own samples and heads.
  for collective in ("all-gather", "all-reduce", "all-to-all"):
    assert collective not in compiled.as_text()
  expected = jax.jit(gradient, static_argnums=1)(operands, "plain")
  for got, want in zip(compiled(placed), expected, strict=True):
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_attention_is_chosen_by_the_mesh():
  def choose(platform, num_queries, num_keys, width, dtype=jnp.bfloat16):
    query = jax.ShapeDtypeStruct((1, num_queries, 2, width), dtype)
    return attention.choose(query, num_keys, platform)

  assert choose("tpu", 4096, 4096, 64) == "flash"
  assert choose("tpu", 4096, 77, 40, jnp.float32) == "flash"
  # Too large for the chip's memory.
  assert choose("tpu", 4096, 4096, 512) == "chunked"
  assert choose("gpu", 4096, 4096, 64) == "cudnn"
  assert choose("gpu", 4096, 4096, 64, jnp.float32) == "chunked"
  assert choose("gpu", 4096, 4096, 512) == "chunked"
  assert choose("gpu", 256, 64, 20) == "plain"
  for platform in ("cpu", None):
    assert choose(platform, 4096, 4096, 64) == "blocked"
    assert choose(platform, 64, 64, 64) == "plain"
  assert placement.platform() is None
  with placement.on_mesh(mesh_lib.make_mesh()):
    assert placement.platform() == "cpu"


def _largest_scores(text: str) -> int:
  """The largest product of an array's last two axes in StableHLO."""
  shapes = re.findall(r"tensor<([0-9x]+)x[a-z]", text)
  axes = (tuple(map(int, shape.split("x")))[-2:] for shape in shapes)
  return max(math.prod(pair) for pair in axes if len(pair) == 2)


def _lowered(loss, platform, *inputs):
  """StableHLO of a gradient, for devices that are not here."""
  name = {"gpu": "cuda"}.get(platform, platform)
  traced = jax.jit(jax.grad(loss)).trace(*inputs)
  return traced.lower(lowering_platforms=(name,)).as_text()


@pytest.mark.parametrize(
  ("platform", "dtype"),
  [("tpu", jnp.float32), ("gpu", jnp.float32), ("cpu", jnp.float32)],
)
def test_attention_never_has_all_scores_in_memory(platform, dtype, pretend_mesh):
  x = jax.ShapeDtypeStruct((1, 4096, 2, 8), dtype)
  loss = placement.on_mesh(pretend_mesh(platform))(
    lambda x: jnp.sum(attention.attend(x, x, x) ** 2)
  )
  text = _lowered(loss, platform, x)
  assert ("tpu_custom_call" in text) == (platform == "tpu")
  # The largest others are 4,096 tokens of 128 channels.
  assert _largest_scores(text) <= 4096 * 512


def test_no_network_has_all_scores_in_memory(pretend_mesh):
  network = dit.DiT(
    patch_size=1, depth=1, width=16, num_heads=2, qk_norm=True, dtype=jnp.bfloat16
  )
  x_t, t = jnp.zeros((1, 64, 64, 4)), jnp.zeros((1,))
  params = jax.eval_shape(network.init, jax.random.key(0), x_t, t, ())

  @placement.on_mesh(pretend_mesh("tpu"))
  def loss(params, x_t, t):
    return jnp.sum(network.apply(params, x_t, t, ()) ** 2)

  text = _lowered(loss, "tpu", params, x_t, t)
  assert "tpu_custom_call" in text
  assert _largest_scores(text) <= 4096 * 512
