"""DiT has the paper's sizes, starts at zero, and is honest about what it may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import placement
from cxr_diffusion_jax.models.denoisers.dit import DiT
from cxr_diffusion_jax.types import StreamSpec, TokenStream

STREAMS = (
  StreamSpec(name="map", num_tokens=5, width=6, grid=(2, 2), num_leading=1),
  StreamSpec(name="text", num_tokens=3, width=5),
)
KINDS = {
  "cross": dict(context_mode="cross", positions="rotary"),
  "tokens": dict(context_mode="tokens", positions="rotary", swiglu=True, qk_norm=True),
  "sincos": dict(context_mode="tokens", positions="sincos", pooled=False),
  "conv": dict(stem="conv", head="conv"),
}


def _make(**changes):
  settings = dict(out_channels=3, depth=2, width=16, num_heads=2)
  return DiT(**{**settings, "context_streams": STREAMS, **changes})


def _context(batch=2):
  rng = np.random.default_rng(1)
  return tuple(
    TokenStream(
      tokens=rng.standard_normal((batch, spec.num_tokens, spec.width), np.float32),
      mask=np.ones((batch, spec.num_tokens), bool),
    )
    for spec in STREAMS
  )


def _inputs(height=4, width=6):
  x_t = np.random.default_rng(2).standard_normal((2, height, width, 2), np.float32)
  return x_t, np.float32([100, 900]), _context()


def _draw(model, inputs):
  """Random parameters, since the real ones make the output zero."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  return jax.tree.map(
    lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), shapes
  )


@pytest.fixture(scope="module", params=KINDS)
def small(request):
  """A small DiT of each kind: its jitted apply, parameters and inputs."""
  model, inputs = _make(**KINDS[request.param]), _inputs()
  return jax.jit(model.apply), _draw(model, inputs), *inputs


@pytest.mark.parametrize(
  ("depth", "width", "num_heads", "millions"),
  [(12, 384, 6, 33), (12, 768, 12, 130), (24, 1024, 16, 458), (28, 1152, 16, 675)],
)
def test_dit_sizes_are_those_of_the_paper(depth, width, num_heads, millions):
  """Table 1 of the paper: S/2, B/2, L/2 and XL/2, which also predict variances."""
  model = DiT(
    out_channels=8,
    depth=depth,
    width=width,
    num_heads=num_heads,
    context_mode="tokens",
    pooled=False,
  )
  inputs = jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), ()
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  ours = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  # Theirs has a table of 1001 labels and one of 256 places, ours a null token.
  theirs = ours + (1001 + 256 - 1) * width
  assert abs(theirs / 1e6 - millions) < 0.6
  if millions == 675:
    assert theirs == 675_129_632


def test_dit_predicts_zero_untrained():
  model = _make(depth=1, head="conv")
  got, _ = jax.jit(model.init_with_output)(jax.random.key(0), *_inputs())
  np.testing.assert_array_equal(got, np.zeros((2, 4, 6, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_dit_in_bfloat16_keeps_float32_outputs(kind):
  model = _make(**KINDS[kind], dtype=jnp.bfloat16)
  result, variables = jax.eval_shape(
    model.init_with_output, jax.random.key(0), *_inputs()
  )
  assert (result.shape, result.dtype) == ((2, 4, 6, 3), jnp.float32)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_dit_ignores_masked_tokens(small):
  apply, variables, x_t, t, context = small
  keep = np.array([True, True, False, False, True])
  hidden = context[0].replace(mask=np.tile(keep, (2, 1)))
  poison = hidden.replace(
    tokens=np.where(keep[:, None], context[0].tokens, np.float32(np.nan))
  )
  want = apply(variables, x_t, t, (hidden, context[1]))
  assert np.isfinite(want).all()
  np.testing.assert_array_equal(apply(variables, x_t, t, (poison, context[1])), want)
  # But hiding them was not for nothing, and everything may be hidden.
  assert np.abs(apply(variables, x_t, t, context) - want).max() > 1e-3
  none = tuple(s.replace(mask=np.zeros_like(s.mask)) for s in context)
  assert np.isfinite(apply(variables, x_t, t, none)).all()


def test_dit_depends_on_the_order_of_maps_only(small):
  apply, variables, x_t, t, context = small
  want = apply(variables, x_t, t, context)

  def turned(stream, first):
    order = [*range(first), *reversed(range(first, stream.tokens.shape[1]))]
    return stream.replace(tokens=stream.tokens[:, order])

  text = apply(variables, x_t, t, (context[0], turned(context[1], 0)))
  np.testing.assert_allclose(text, want, rtol=1e-4, atol=1e-4)
  places = apply(variables, x_t, t, (turned(context[0], 1), context[1]))
  assert np.abs(places - want).max() > 1e-3


def test_dit_examples_are_independent(small):
  apply, variables, x_t, t, context = small
  want = apply(variables, x_t, t, context)
  other = apply(variables, x_t, np.float32([100, 901]), context)
  np.testing.assert_array_equal(other[0], want[0])
  assert np.abs(other[1] - want[1]).max() > 1e-4


def test_dit_distinguishes_places(small):
  """Patches that change places do not just take their predictions with them."""
  apply, variables, x_t, t, context = small
  want = np.asarray(apply(variables, x_t, t, context))
  flipped = x_t.reshape(2, 2, 2, 3, 2, 2)[:, ::-1, :, ::-1].reshape(x_t.shape)
  got = np.asarray(apply(variables, flipped, t, context))
  back = got.reshape(2, 2, 2, 3, 2, 3)[:, ::-1, :, ::-1].reshape(want.shape)
  assert np.abs(back - want).max() > 1e-3


@pytest.mark.parametrize(
  ("changes", "rows", "columns"),
  [
    ({}, (2, 4), (4, 6)),
    ({"head": "conv"}, (1, 5), (3, 7)),
    # A patch of the stem sees one row and column more, and so do its tokens.
    ({"stem": "conv"}, (0, 6), (2, 8)),
    ({"patch_size": 1, "stem": "conv"}, (1, 5), (3, 7)),
  ],
)
def test_dit_keeps_patches_in_place(changes, rows, columns):
  """Without blocks and overlap that mix them, a patch decides its own prediction."""
  model, (x_t, t, context) = _make(depth=1, **changes), _inputs(8, 10)
  variables = _draw(model, (x_t, t, context))
  params = dict(variables["params"])
  # Gates of zero, and no word of the context.
  params["blocks_0"] = jax.tree.map(np.zeros_like, params["blocks_0"])
  apply = jax.jit(model.apply)
  want = apply({"params": params}, x_t, t, context)
  changed = x_t.copy()
  changed[:, 2:4, 4:6] += np.random.default_rng(3).normal(size=(2, 2, 2, 2))
  got = apply({"params": params}, changed, t, context)
  where = np.abs(got - want).max(axis=(0, 3)) > 1e-4
  wanted = np.zeros((8, 10), bool)
  wanted[slice(*rows), slice(*columns)] = True
  np.testing.assert_array_equal(where, wanted)


@pytest.mark.parametrize("layer", [0, 1])
def test_dit_sows_features_of_the_named_layer(layer):
  plain, inputs = _make(context_mode="tokens"), _inputs()
  variables = _draw(plain, inputs)
  model = _make(context_mode="tokens", feature_layer=layer)
  out, sown = jax.eval_shape(
    lambda *a: model.apply(*a, mutable="intermediates"), variables, *inputs
  )
  assert sown["intermediates"]["features"][0].shape == (2, 2, 3, 16)
  assert out.shape == (2, 4, 6, 3)
  _, none = jax.eval_shape(
    lambda *a: plain.apply(*a, mutable="intermediates"), variables, *inputs
  )
  assert not none


def test_dit_with_remat_is_equal_and_learns_all_parameters():
  inputs = _inputs()
  result = []
  for remat in (False, True):
    model = _make(depth=1, qk_norm=True, remat=remat, stem="conv", head="conv")
    variables = _draw(model, inputs)
    target = inputs[0][..., :1]

    def loss(variables, model=model, target=target):
      return jnp.mean((model.apply(variables, *inputs) - target) ** 2)

    result.append(jax.jit(jax.value_and_grad(loss))(variables))
  (plain, grads), (again, grads_again) = result
  np.testing.assert_allclose(plain, again, rtol=1e-5)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    # A key's bias adds the same to all scores of a query; norms undo that it does.
    if not (path[-2].key == "to_k" and path[-1].key == "bias"):
      assert np.abs(leaf).max() > 1e-7, path
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    grads,
    grads_again,
  )


@pytest.mark.parametrize(
  ("changes", "size", "message"),
  [
    ({"patch_size": 4}, (4, 6), "an input of 4x6 for patches of 4; expected sides"),
    ({"num_heads": 3}, (4, 4), "a width of 16 with 3 heads; expected heads whose"),
    ({"context_mode": "add"}, (4, 4), r"context_mode 'add'; .* cross, tokens"),
    ({"positions": "none"}, (4, 4), r"positions 'none'; .* rotary, sincos"),
    ({"head": "mlp"}, (4, 4), r"head 'mlp'; .* conv, linear"),
    ({"feature_layer": 2}, (4, 4), "feature_layer 2 of 2 blocks; expected 0 to 1"),
  ],
)
def test_dit_refuses_wrong_sizes(changes, size, message):
  with pytest.raises(errors.InputError, match=message):
    jax.eval_shape(_make(**changes).init, jax.random.key(0), *_inputs(*size))


def test_scanned_blocks_keep_results_of_products_alone_for_the_gradient(pretend_mesh):
  model = _make(
    width=32, qk_norm=True, dropout=0.5, scan_blocks=True, dtype=jnp.bfloat16
  )
  inputs = _inputs(height=16, width=16)
  params = jax.eval_shape(model.init, jax.random.key(0), *inputs)

  @placement.on_mesh(pretend_mesh("tpu"))
  def residuals(params):
    rngs = {"dropout": jax.random.key(0)}
    return jax.vjp(lambda params: model.apply(params, *inputs, rngs=rngs), params)[1]

  kept = jax.tree.leaves(jax.eval_shape(residuals, params))
  hidden = [x.dtype for x in kept if x.shape == (2, 2, 64, 128)]
  # Of both blocks: the units before the GELU, and the mask of dropout.
  assert sorted(hidden, key=str) == [jnp.bfloat16, jnp.bool_]
  tokens = [x for x in kept if x.ndim > 3 and x.size == 2 * 2 * 64 * 32]
  # Input; q, k, v, attention, output; q, attention, output; and the MLP's output.
  assert [x.dtype for x in tokens] == [jnp.bfloat16] * 10
