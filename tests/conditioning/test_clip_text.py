"""With every state a token, a UNet sees what Stable Diffusion's pipeline gives it."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base, clip_text
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.columns import clip as clip_columns
from cxr_diffusion_jax.models.denoisers.unet import UNet
from cxr_diffusion_jax.run import null_context
from cxr_diffusion_jax.types import TokenStream

FOLDER = pathlib.Path(__file__).parents[1] / "encoders" / "clip" / "torch_clip"


@pytest.fixture(scope="module")
def encoder() -> clip_columns.ClipEncoder:
  return clip_columns.load(str(FOLDER))


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
  """PyTorch's states of padded prompts, without a mask, as diffusers computes them."""
  with np.load(FOLDER / "expected.npz") as arrays:
    return dict(arrays)


@pytest.fixture(scope="module")
def empty(encoder) -> np.ndarray:
  """[n d], the states of the empty prompt as transformers pads it."""
  model = encoder.model
  ids = model.tokenizer([""], padding="max_length", truncation=True)["input_ids"]
  return np.asarray(model.text_fn(model.params, np.asarray(ids, np.int32))[0])[0]


@pytest.fixture(scope="module")
def conditioner(encoder) -> base.Conditioner:
  """With the null condition, by way of a dataset card."""
  (name,) = clip_text.Conditioner(all_states=True).needs.columns
  kept = null_context.to_json({name: encoder.encode_text([name], [""])[name][0]})
  path = clip_text.Conditioner(
    encoder=str(FOLDER), all_states=True, shape=encoder.shapes[name]
  )
  return null_context.bind(path, {null_context.KEY: kept})


def test_all_states_are_those_of_diffusers_and_none_is_masked(
  encoder, expected, empty, conditioner
):
  (name,) = conditioner.needs.columns
  values = encoder.encode_text([name], list(expected["prompts"]))[name]
  # The last row has no prompt.
  values = np.concatenate([values, np.zeros_like(values[:1])]).astype(np.float16)
  context = conditioner({name: values})
  dropped = base.drop_all(context)
  some = base.drop_context(context, jnp.array([[True], [False], [True]]))
  wanted = [*expected["text_tokens"], empty]
  for (stream,), tokens in (
    (context, wanted),
    (dropped, [empty] * 3),
    (some, [empty, wanted[1], empty]),
  ):
    # Columns are float16.
    np.testing.assert_allclose(stream.tokens, tokens, rtol=1e-3, atol=1e-3)
    assert stream.mask.all()
  assert np.abs(expected["text_tokens"][0] - empty).max() > 0.1

  # A UNet with published weights: as without a mask, which moves the output.
  unet = UNet(
    block_channels=(8,),
    num_layers=1,
    attention=(True,),
    num_heads=2,
    context_width=16,
    norm_groups=4,
    zero_init=False,
  )
  x_t = jax.random.normal(jax.random.key(0), (3, 8, 8, 4))
  t = jnp.full(3, 500.0)
  params = jax.jit(unet.init)(jax.random.key(1), x_t, t, context)
  apply = jax.jit(lambda *inputs: unet.apply(params, *inputs))
  theirs = TokenStream(tokens=jnp.asarray(wanted), mask=jnp.ones((3, 16), bool))
  ours, published = apply(x_t, t, context), apply(x_t, t, (theirs,))
  np.testing.assert_allclose(ours, published, atol=2e-3)
  masked = dataclasses.replace(
    theirs, mask=jnp.asarray([*expected["text_mask"], expected["text_mask"][0]])
  )
  assert np.abs(apply(x_t, t, (masked,)) - published).max() > 2e-2


def test_all_states_need_one_window():
  with pytest.raises(errors.InputError, match=r"chunks=2 with all_states; expected 1"):
    clip_text.Conditioner(chunks=2, all_states=True)


def test_null_context_survives_json_and_binding_again(conditioner):
  changed = null_context.bind(conditioner, {})
  assert not changed.states.any()
  assert isinstance(changed.conditioner, clip_text.Conditioner)
  plain = clip_text.Conditioner(shape=(77, 768))
  assert null_context.bind(plain, {}) is plain


def test_empty_prompt_equals_a_missing_one(encoder, conditioner):
  (name,) = conditioner.needs.columns
  asked = encoder.encode_text([name], [""])[name].astype(np.float16)
  (given,) = conditioner({name: asked})
  (missing,) = conditioner({name: np.zeros_like(asked)})
  np.testing.assert_array_equal(given.tokens, missing.tokens)
  assert clip_model.encode_text(encoder.model, [""])[1].sum() == 2
