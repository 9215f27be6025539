"""What every conditioning path promises, checked on all that stand in the folder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base, elixr_b
from cxr_diffusion_jax.encoders import base as encoders
from cxr_diffusion_jax.models.denoisers import unet

# Each path with its other forms.
FORMS = [
  ("bert_text", {"encoder": "standin"}),
  ("bert_text", {"chunks": 2}),
  ("bert_text", {"pooled": True}),
  ("clip_text", {"encoder": "standin"}),
  ("clip_text", {"encoder": "standin", "chunks": 2}),
  ("clip_text", {"encoder": "standin", "all_states": True}),
  ("clip_vision", {"encoder": "standin"}),
  ("clip_vision", {"encoder": "standin", "pooled": True}),
  *(("elixr_b", {"kind": kind}) for kind in elixr_b.KINDS),
  ("elixr_c", {}),
  ("elixr_c", {"pooled": True}),
  ("elixr_bc", {}),
  ("findings", {}),
]


def _make(name: str, options: dict) -> base.Conditioner:
  """A path with the shapes that its encoders make."""
  conditioner = base.load(name)(**options)
  return base.with_shape(
    conditioner, encoders.shapes(conditioner.needs) | {"findings": (14,)}
  )


def _batch(conditioner: base.Conditioner, b: int, seed: int = 0) -> types.Batch:
  """A batch as records and columns give it; half of all texts are padding."""
  rng = np.random.default_rng(seed)
  batch = {
    "findings": rng.integers(0, 2, (b, 14)).astype(np.float32),
    "age": rng.uniform(1, 95, b).astype(np.float32),
    "sex": rng.integers(-1, 2, b).astype(np.int32),
    "view": rng.integers(-1, 2, b).astype(np.int32),
  }
  for name, shape in encoders.shapes(conditioner.needs).items():
    batch[name] = rng.standard_normal((b, *shape)).astype(np.float16)
    if (
      len(shape) > 1 and shape[0] > 32 and name in ("bert_text", "clip_text", "txt_emb")
    ):
      batch[name][:, shape[0] // 2 :] = 0
  return batch


@pytest.fixture(scope="module", params=FORMS, ids=str)
def conditioner(request) -> base.Conditioner:
  name, options = request.param
  return _make(name, options)


# What a network makes of streams does not depend on which columns they come from.
OF_NETWORKS = [FORMS[[name for name, _ in FORMS].index(name)] for name in base.names()]


@pytest.fixture(scope="module", params=OF_NETWORKS, ids=str)
def denoised(request):
  """A path and a small UNet for it: (x_t [b 8 8 4], context) -> prediction."""
  name, options = request.param
  conditioner = _make(name, options)
  net = unet.UNet(
    out_channels=4,
    block_channels=(8,),
    num_layers=1,
    attention=(True,),
    num_heads=2,
    context_width=8,
    norm_groups=4,
    context_streams=conditioner.streams,
  )
  x_t = jax.random.normal(jax.random.key(1), (3, 8, 8, 4))
  context = conditioner(_batch(conditioner, 3))
  t = jnp.full(3, 300.0)
  # Drawn here: the last layer begins at zero, which tells nothing from nothing, and to
  # compile the whole beginning takes longer than all else.
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x_t, t, context)["params"]
  params = jax.tree.map(
    lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes
  )
  apply = jax.jit(net.apply)
  return (
    conditioner,
    lambda x_t, context: apply({"params": params}, x_t, t, context),
    x_t,
  )


def test_names_are_covered_by_these_tests():
  assert {name for name, _ in FORMS} == set(base.names())


def test_conditioner_rejects_another_declared_shape():
  spec = dataclasses.replace(elixr_b.Conditioner().needs.specs[0], shape=(77, 768))
  with pytest.raises(
    errors.InputError, match=r"shape \[128, 768\]; expected \[77, 768\]"
  ):
    encoders.shapes(base.Needs(specs=(spec,)))


def test_streams_match_their_specification(conditioner):
  context = conditioner(_batch(conditioner, 3))
  assert len(context) == len(conditioner.streams) >= 1
  for spec, stream in zip(conditioner.streams, context, strict=True):
    assert stream.tokens.shape == (3, spec.num_tokens, spec.width)
    assert stream.tokens.dtype == jnp.float32
    assert stream.mask.shape == (3, spec.num_tokens)
    assert stream.mask.dtype == bool
    assert stream.mask.any()
    np.testing.assert_array_equal(stream.mask, (stream.tokens != 0).any(axis=-1))


def test_conditioner_without_input_gives_no_token(conditioner):
  batch = {
    "findings": np.full((2, 14), np.nan, np.float32),
    "age": np.full(2, np.nan, np.float32),
    "sex": np.full(2, -1),
    "view": np.full(2, -1),
  }
  for name, shape in encoders.shapes(conditioner.needs).items():
    batch[name] = np.zeros((2, *shape), np.float16)
  for stream in conditioner(batch):
    assert not stream.mask.any()
    assert not stream.tokens.any()


def test_conditioner_ignores_padding(denoised):
  conditioner, apply, x_t = denoised
  context = conditioner(_batch(conditioner, 3))
  # Whatever the path's own padding, some tokens are made padding here.
  context = tuple(s.replace(mask=s.mask.at[:, -1].set(False)) for s in context)
  spoilt = tuple(
    s.replace(tokens=jnp.where(s.mask[..., None], s.tokens, 1e4)) for s in context
  )
  np.testing.assert_allclose(apply(x_t, spoilt), apply(x_t, context), atol=1e-6)


def test_drop_all_gives_the_unconditional_model(denoised):
  conditioner, apply, x_t = denoised
  context = conditioner(_batch(conditioner, 3))
  dropped = base.drop_all(context)
  empty = tuple(
    types.TokenStream(
      tokens=jnp.zeros_like(s.tokens), mask=jnp.zeros(s.mask.shape, bool)
    )
    for s in context
  )
  np.testing.assert_array_equal(apply(x_t, dropped), apply(x_t, empty))
  everything = jnp.ones((3, len(context)), bool)
  one_by_one = base.drop_context(context, everything)
  np.testing.assert_array_equal(apply(x_t, one_by_one), apply(x_t, empty))
  assert np.abs(apply(x_t, context) - apply(x_t, empty)).max() > 1e-4


def test_conditioner_is_permutation_equivariant(denoised):
  conditioner, apply, x_t = denoised
  batch = _batch(conditioner, 3)
  order = np.array([2, 0, 1])
  permuted = {name: value[order] for name, value in batch.items()}
  np.testing.assert_allclose(
    apply(x_t[order], conditioner(permuted)),
    apply(x_t, conditioner(batch))[order],
    atol=1e-6,
  )


def test_conditioner_holds_no_encoder(conditioner):
  for field in dataclasses.fields(conditioner):
    assert isinstance(getattr(conditioner, field.name), str | int | bool | tuple)


@pytest.mark.parametrize("name", ["clip_vision", "elixr_b", "elixr_bc", "elixr_c"])
def test_load_rejects_an_unknown_reference(name):
  with pytest.raises(
    errors.InputError, match="reference='other'; expected self or same_"
  ):
    base.load(name)(reference="other").needs  # noqa: B018


def test_load_derives_user_inputs_from_the_columns():
  inputs = {name: base.load(name)(**options).needs.inputs for name, options in FORMS}
  assert inputs["clip_text"] == inputs["bert_text"] == ("prompt", "findings")
  assert inputs["clip_vision"] == inputs["elixr_c"] == ("reference",)
  assert inputs["elixr_bc"] == ("prompt", "findings", "reference")
  assert inputs["findings"] == ("findings",)
  of_image = elixr_b.Conditioner(kind="img_emb").needs
  assert of_image.inputs == ("reference",)
  assert of_image.reference_columns == ("img_emb",)
  with pytest.raises(errors.InputError, match="kind 'img'; expected one of all_contr"):
    elixr_b.Conditioner(kind="img")
