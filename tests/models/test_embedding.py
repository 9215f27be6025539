"""Sinusoids, positions and the embedding of a context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import embedding
from cxr_diffusion_jax.types import StreamSpec, TokenStream


def test_sinusoids_are_cosines_then_sines():
  got = embedding.sinusoids(jnp.array([0.0, 7.0]), 8)
  frequencies = 10000.0 ** (-np.arange(4) / 4)
  want = [np.r_[np.cos(t * frequencies), np.sin(t * frequencies)] for t in (0, 7)]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_grid_positions_agree_between_resolutions():
  fine = embedding.grid_positions(8, 8, 32).reshape(8, 8, 32)
  coarse = embedding.grid_positions(4, 4, 32).reshape(4, 4, 32)
  similarity = jnp.einsum("c,hwc->hw", coarse[1, 2], fine)
  row, column = np.unravel_index(np.argmax(similarity), (8, 8))
  assert row in (2, 3)
  assert column in (4, 5)
  flat = embedding.grid_positions(8, 8, 32)
  assert np.unique(np.round(flat, 4), axis=0).shape[0] == 64


def test_grid_positions_of_an_odd_width_are_refused():
  with pytest.raises(errors.InputError, match="multiple of 4"):
    embedding.grid_positions(2, 2, 6)


@pytest.fixture(scope="module")
def embedder():
  """An embedder of a 2x2 map, its parameters and a context."""
  spec = StreamSpec(name="map", num_tokens=4, width=6, grid=(2, 2))
  module = embedding.ContextEmbedder((spec,), width=8, pooled_width=3)
  tokens = jax.random.normal(jax.random.key(0), (2, 4, 6))
  context = (TokenStream(tokens=tokens, mask=jnp.ones((2, 4), bool)),)
  variables = jax.jit(module.init, static_argnums=2)(jax.random.key(1), context, 2)
  return module, variables, context


def test_context_embedder_puts_an_unmasked_null_token_first(embedder):
  module, variables, context = embedder
  dropped = (context[0].replace(mask=jnp.zeros((2, 4), bool)),)
  stream, pooled = module.apply(variables, dropped, 2)
  assert stream.tokens.shape == (2, 5, 8)
  np.testing.assert_array_equal(stream.mask, [[True] + 4 * [False]] * 2)
  params = variables["params"]
  null = params["null_token"]
  np.testing.assert_array_equal(stream.tokens[0, 0], null)
  want = null @ params["pooled"]["kernel"] + params["pooled"]["bias"]
  np.testing.assert_allclose(pooled, [want] * 2, atol=1e-6)


def test_context_embedder_accepts_a_missing_optional_stream():
  text = StreamSpec(name="text", num_tokens=2, width=4)
  other = StreamSpec(name="other", num_tokens=1, width=3, optional=True)
  model = embedding.ContextEmbedder((text, other), width=8)
  stream = TokenStream(tokens=jnp.ones((2, 2, 4)), mask=jnp.ones((2, 2), bool))
  masked = TokenStream(tokens=jnp.ones((2, 1, 3)), mask=jnp.zeros((2, 1), bool))
  (got, _), variables = model.init_with_output(jax.random.key(0), (stream,), 2)
  want, _ = model.apply(variables, (stream, masked), 2)
  np.testing.assert_array_equal(got.mask, want.mask)
  np.testing.assert_array_equal(got.tokens, want.tokens)
  with pytest.raises(errors.InputError, match="a context of streams"):
    model.apply(variables, (masked,), 2)


def test_context_embedder_distinguishes_places_of_a_map(embedder):
  module, variables, context = embedder
  same = (context[0].replace(tokens=jnp.tile(context[0].tokens[:, :1], (1, 4, 1))),)
  stream, _ = module.apply(variables, same, 2)
  differences = np.diff(stream.tokens[0, 1:], axis=0)
  assert np.all(np.abs(differences).max(axis=1) > 0.1)


def test_context_embedder_refuses_a_grid_of_other_size():
  spec = StreamSpec(name="map", num_tokens=5, width=6, grid=(2, 2))
  context = (TokenStream(tokens=jnp.ones((1, 5, 6)), mask=jnp.ones((1, 5), bool)),)
  module = embedding.ContextEmbedder((spec,), width=8)
  with pytest.raises(errors.InputError, match="rows times columns"):
    jax.eval_shape(lambda: module.init(jax.random.key(0), context, 1))


def test_context_embedder_gives_no_place_to_tokens_before_a_map():
  spec = StreamSpec(name="map", num_tokens=5, width=6, grid=(2, 2), num_leading=1)
  plain = StreamSpec(name="map", num_tokens=5, width=6)
  context = (
    TokenStream(
      tokens=jax.random.normal(jax.random.key(0), (1, 5, 6)),
      mask=jnp.ones((1, 5), bool),
    ),
  )

  def embed(spec):
    module = embedding.ContextEmbedder((spec,), width=8)
    stream, _ = module.init_with_output(jax.random.key(1), context, 1)[0]
    return stream.tokens[0, 1:]

  difference = embed(spec) - embed(plain)
  np.testing.assert_array_equal(difference[0], np.zeros(8))
  want = embedding.grid_positions(2, 2, 8)
  np.testing.assert_allclose(difference[1:], want, atol=1e-6)
