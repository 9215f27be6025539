"""All implementations of attention are the formula, masks and gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import attention, attention_kernels, flash_attention


def _formula(query, key, value, mask):
  """Attention in float64 numpy, one head of one sample at a time."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  out = np.empty(query.shape)
  for b in range(query.shape[0]):
    keep = np.asarray(mask[b])
    for h in range(query.shape[2]):
      scores = query[b, :, h] @ key[b, keep, h].T / np.sqrt(query.shape[-1])
      weights = np.exp(scores - scores.max(axis=1, keepdims=True))
      weights /= weights.sum(axis=1, keepdims=True)
      out[b, :, h] = weights @ value[b, keep, h]
  return out


@pytest.fixture(scope="module")
def operands():
  """query [2 70 2 8], key and value [2 33 2 8], mask [2 33]."""
  keys = jax.random.split(jax.random.key(0), 4)
  query = 2 * jax.random.normal(keys[0], (2, 70, 2, 8))
  key, value = (jax.random.normal(k, (2, 33, 2, 8)) for k in keys[1:3])
  mask = jax.random.bernoulli(keys[3], 0.6, (2, 33))
  return query, key, value, mask


@pytest.mark.parametrize(
  "implementation", ["plain", "chunked", "blocked", "flash", "auto"]
)
def test_attend_equals_the_formula(operands, implementation):
  # 70 queries in blocks of 32: the last block is padded.
  query, key, value, mask = operands
  got = attention.attend(query, key, value, mask, implementation, block_size=32)
  np.testing.assert_allclose(got, _formula(query, key, value, mask), atol=2e-6)
  everything = np.ones(mask.shape, bool)
  got = attention.attend(query, key, value, None, implementation, block_size=32)
  np.testing.assert_allclose(got, _formula(query, key, value, everything), atol=2e-6)


@pytest.mark.parametrize("implementation", ["chunked", "blocked", "flash"])
def test_attention_has_the_gradient_of_plain(operands, implementation, monkeypatch):
  # Several blocks of queries, and a row without visible keys.
  monkeypatch.setattr(attention_kernels, "CHUNK_SCORES", 2**10)
  monkeypatch.setattr(flash_attention, "BLOCK_SCORES", 2**12)
  query, key, value, mask = operands
  mask = mask.at[1].set(False)

  def loss(operands, implementation):
    return jnp.sum(
      attention.attend(*operands, mask, implementation, block_size=32) ** 2
    )

  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  expected = gradient((query, key, value), "plain")
  gradients = gradient((query, key, value), implementation)
  for got, want in zip(gradients, expected, strict=True):
    # Both are within 6e-7 of float64, relative to the largest entry.
    largest = float(jnp.max(jnp.abs(want)))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * largest)


@pytest.mark.parametrize("implementation", ["plain", "chunked", "blocked", "flash"])
def test_attend_ignores_masked_keys_and_is_finite_for_empty_rows(
  operands, implementation
):
  query, key, value, mask = operands
  mask = mask.at[1].set(False)
  hidden = mask[..., None, None]
  got = attention.attend(
    query,
    jnp.where(hidden, key, 3.0),
    jnp.where(hidden, value, 0.0),
    mask,
    implementation,
  )
  want = attention.attend(
    query,
    jnp.where(hidden, key, -5.0),
    jnp.where(hidden, value, 0.0),
    mask,
    implementation,
  )
  np.testing.assert_array_equal(got, want)
  assert np.all(np.isfinite(got))


def test_attend_does_not_overflow(operands):
  query, key, value, mask = operands
  out = attention.attend(query * 1e4, key * 1e4, value, mask)
  assert np.all(np.isfinite(out))


def test_attend_computes_softmax_in_float32(operands):
  query, key, value, mask = (x.astype(jnp.bfloat16) for x in operands)
  mask = mask.astype(bool)
  got = attention.attend(query, key, value, mask)
  assert got.dtype == jnp.bfloat16
  want = _formula(*(x.astype(jnp.float32) for x in (query, key, value)), mask)
  np.testing.assert_allclose(got.astype(np.float32), want, atol=2e-2)


def test_cudnn_attention_is_called_with_supported_shapes(operands, monkeypatch):
  """No GPU here: the call is recorded and answered by the XLA implementation."""
  calls = []
  real = jax.nn.dot_product_attention

  def record(query, key, value, *, mask, implementation):
    calls.append((query.shape, key.shape, mask.shape, implementation))
    return real(query, key, value, mask=mask, implementation="xla")

  monkeypatch.setattr(jax.nn, "dot_product_attention", record)
  query, key, value, mask = operands
  got = attention.attend(query[:, :69], key, value, mask, "cudnn")
  # Even lengths, and a mask with the queries' axis written out.
  assert calls == [((2, 70, 2, 8), (2, 40, 2, 8), (2, 1, 70, 40), "cudnn")]
  want = _formula(query[:, :69], key, value, mask)
  np.testing.assert_allclose(got, want, atol=2e-6)


def test_attend_refuses_an_unknown_implementation(operands):
  with pytest.raises(ValueError, match="paged"):
    attention.attend(*operands, "paged")


def test_block_size_for_bounds_the_scores_in_memory():
  for num_keys in (64, 1024, 4096, 16384):
    size = attention_kernels.block_size_for(4096, num_keys)
    assert 32 <= size <= 512
    assert size == 32 or size * num_keys <= 2**20
