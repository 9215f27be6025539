"""A block computes its equations, written a second time in NumPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import dit_blocks
from cxr_diffusion_jax.types import TokenStream

WIDTH, HEADS, GRID = 16, 2, (2, 3)


def _norm(x):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def _dense(params, x):
  return x @ params["kernel"] + params["bias"]


def _turn(x, angles):
  """Pairs of channels as complex numbers."""
  half = x.shape[-1] // 2
  pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
  return np.concatenate([pairs.real, pairs.imag], axis=-1)


def _attention(params, x, source, mask, angles):
  """One head after the other; x [n c], source [m c], mask [m]."""
  results = []
  query, key, value = (
    np.split(_dense(params[name], inputs), HEADS, axis=-1)
    for name, inputs in (("to_q", x), ("to_k", source), ("to_v", source))
  )
  for q, k, v in zip(query, key, value, strict=True):
    if "norm_q" in params:
      q = q / np.sqrt((q * q).mean(-1, keepdims=True) + 1e-6)
      k = k / np.sqrt((k * k).mean(-1, keepdims=True) + 1e-6)
      q, k = q * params["norm_q"]["scale"], k * params["norm_k"]["scale"]
    if angles is not None:
      q, k = _turn(q, angles), _turn(k, angles)
    weights = np.exp(q @ k.T / np.sqrt(WIDTH // HEADS)) * mask
    results.append(weights / weights.sum(-1, keepdims=True) @ v)
  return _dense(params["to_out_0"], np.concatenate(results, axis=-1))


def _mlp(params, x):
  h = _dense(params["net_0"], x)
  if "net_gate" in params:
    gate = _dense(params["net_gate"], x)
    return _dense(params["net_2"], h * gate / (1 + np.exp(-gate)))
  gelu = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
  return _dense(params["net_2"], gelu)


def _block(params, x, vector, stream, mask, angles, places):
  """The block of one example."""
  modulation = np.split(_dense(params["modulation"], vector), 6)
  shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation
  h = _norm(x) * (1 + scale_1) + shift_1
  x = x + gate_1 * _attention(params["attn1"], h, h, mask, angles)
  if "attn2" in params:
    query = _norm(x) if places is None else _norm(x) + places
    x = x + _attention(params["attn2"], query, *stream, None)
  return x + gate_2 * _mlp(params["mlp"], _norm(x) * (1 + scale_2) + shift_2)


@pytest.mark.parametrize("modern", [False, True])
def test_block_equals_its_equations(modern):
  """As the paper has it, and with cross-attention, gates, norms and rotations."""
  rng = np.random.default_rng(0)
  style = dit_blocks.Style(
    num_heads=HEADS,
    hidden=24,
    cross=modern,
    swiglu=modern,
    qk_norm=modern,
    dropout=0.0,
    dtype=jnp.float32,
  )
  num_tokens = GRID[0] * GRID[1]
  x = rng.standard_normal((1, num_tokens, WIDTH), np.float32)
  vector = rng.standard_normal((1, WIDTH), np.float32)
  tokens = rng.standard_normal((1, 4, WIDTH), np.float32)
  seen = np.array([[True, True, False, True]])
  mask = None if modern else np.arange(num_tokens)[None] != 2
  angles = dit_blocks.grid_angles(GRID, WIDTH // HEADS) if modern else None
  places = rng.standard_normal((num_tokens, WIDTH), np.float32) if modern else None
  given = dit_blocks.Condition(
    vector=vector,
    stream=TokenStream(tokens=tokens, mask=seen),
    mask=mask,
    angles=angles,
    query_positions=places,
  )
  block = dit_blocks.Block(style)
  shapes = jax.eval_shape(block.init, jax.random.key(0), x, given)["params"]
  params = jax.tree.map(
    lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), shapes
  )
  got = jax.jit(block.apply)({"params": params}, x, given)
  exact = jax.tree.map(np.float64, params)
  all_seen = np.ones(num_tokens, bool)
  want = _block(
    exact,
    np.float64(x[0]),
    vector[0],
    (tokens[0], seen[0]),
    all_seen if mask is None else mask[0],
    angles,
    places,
  )
  assert np.abs(want - x[0]).max() > 1
  np.testing.assert_allclose(got[0], want, rtol=1e-5, atol=2e-5)


def test_block_is_the_identity_untrained():
  style = dit_blocks.Style(
    num_heads=2,
    hidden=32,
    cross=True,
    swiglu=False,
    qk_norm=False,
    dropout=0.0,
    dtype=jnp.float32,
  )
  x = np.random.default_rng(0).standard_normal((2, 5, 8), np.float32)
  stream = TokenStream(tokens=x[:, :3], mask=np.ones((2, 3), bool))
  given = dit_blocks.Condition(
    vector=x[:, 0], stream=stream, mask=None, angles=None, query_positions=None
  )
  init = jax.jit(dit_blocks.Block(style).init_with_output)
  got, _ = init(jax.random.key(0), x, given)
  np.testing.assert_array_equal(got, x)


def test_mlp_with_gates_keeps_the_number_of_parameters():
  def count(swiglu):
    style = dit_blocks.Style(
      num_heads=2,
      hidden=4 * 384,
      cross=False,
      swiglu=swiglu,
      qk_norm=False,
      dropout=0.0,
      dtype=jnp.float32,
    )
    shapes = jax.eval_shape(
      dit_blocks.MLP(style).init, jax.random.key(0), jnp.zeros((1, 384))
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

  assert count(True) == pytest.approx(count(False), rel=1e-3)
