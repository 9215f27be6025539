"""Features are pulled in training, and nowhere else is anything known of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import alignment as models_alignment
from cxr_diffusion_jax.run import checkpoints
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import alignment, step
from cxr_diffusion_jax.training import experiment as experiment_lib

ON = {
  "repa__weight": 0.5,
  "repa__projector_width": 8,
  "conditioning__reference": "same_patient",
}


def _toy() -> alignment.Alignment:
  projector = models_alignment.Projector(4, 3)
  return alignment.Alignment(
    weight=0.25,
    field="map",
    grid=(2, 2),
    num_leading=1,
    projector=projector,
    needs=None,
    init_fn=lambda key: projector.init(key, jnp.zeros((1, 1)))["params"],
  )


def _apply(variables, x_t, t, context, mutable=(), rngs=None):
  """A denoiser a x_t, whose features are tanh(a x_t)."""
  del t, context, rngs
  result = variables["params"]["a"] * x_t
  sown = {"intermediates": {"features": (jnp.tanh(result),)}}
  return (result, sown) if mutable else result


@pytest.fixture
def toy(build):
  """An objective with an alignment, and what `total_loss` takes."""
  experiment = build()
  objective = experiment.objective
  denoiser = dataclasses.replace(objective.denoiser, apply_fn=_apply)
  objective = dataclasses.replace(objective, denoiser=denoiser)
  one = _toy()
  rng = np.random.default_rng(0)
  x_t, target = rng.standard_normal((2, 3, 4, 4, 4)).astype(np.float32)
  batch = {"map": rng.standard_normal((3, 5, 3)).astype(np.float16)}
  inputs = x_t, target, np.linspace(0.2, 0.8, 3, dtype=np.float32), ()
  params = {"a": jnp.float32(0.3)}
  projector = models_alignment.Projector(4, 3).init(
    jax.random.key(0), jnp.zeros((1, 4))
  )["params"]
  aligned = dataclasses.replace(objective, alignment=one)
  return objective, aligned, params, projector, inputs, one.target(batch)


def test_total_loss_has_two_parts_and_reports_both(toy):
  plain, aligned, params, projector, inputs, wanted = toy
  assert wanted.shape == (3, 4, 3)
  alone, reported_alone = step.total_loss(plain, params, *inputs)
  both, reported = step.total_loss(
    aligned, state_lib.learned(params, projector), *inputs, wanted
  )
  assert reported_alone == {"loss": alone}
  assert reported["loss"] == alone
  features = jnp.tanh(0.3 * inputs[0])
  apart = aligned.alignment.losses(projector, features, wanted).mean()
  np.testing.assert_allclose(reported["repa_loss"], apart, rtol=1e-6)
  np.testing.assert_allclose(both, alone + 0.25 * apart, rtol=1e-6)


def test_total_loss_has_gradients_for_network_and_projector(toy):
  plain, aligned, params, projector, inputs, wanted = toy

  @jax.jit
  def grad(weight):
    one = dataclasses.replace(aligned.alignment, weight=weight)
    objective = dataclasses.replace(aligned, alignment=one)
    return jax.grad(lambda tree: step.total_loss(objective, tree, *inputs, wanted)[0])(
      state_lib.learned(params, projector)
    )

  alone = jax.grad(lambda tree: step.total_loss(plain, tree, *inputs)[0])(params)
  none, some, twice = (grad(weight) for weight in (0.0, 1.0, 2.0))
  np.testing.assert_allclose(none["denoiser"]["a"], alone["a"], rtol=1e-6)
  pull = some["denoiser"]["a"] - alone["a"]
  assert abs(pull) > 1e-3
  np.testing.assert_allclose(twice["denoiser"]["a"] - alone["a"], 2 * pull, rtol=1e-3)
  for layer in some["projector"].values():
    assert np.abs(layer["kernel"]).max() > 0


def test_alignment_resumes_bit_for_bit(toy, tmp_path):
  _, aligned, params, projector, inputs, _ = toy
  x0 = np.clip(inputs[0], -1, 1).reshape(3, 8, 8, 1)
  batch = {"image": x0, "elixrc": np.ones((3, 8, 8, 1376), np.float16)}
  batch["map"] = np.random.default_rng(1).standard_normal((3, 5, 3))
  optimizer = optax.adam(0.05)
  train_step = jax.jit(
    lambda state: step.train_step(
      aligned, optimizer, state, batch, seed=0, ema_decay=0.9, accumulation=1
    )
  )
  state, reported = state_lib.create(params, optimizer.init, projector=projector), []
  with checkpoints.open_manager(tmp_path) as manager:
    for number in range(6):
      if number == 3:
        checkpoints.save(manager, state, {})
        checkpoints.wait(manager)
      state, metrics = train_step(state)
      reported.append(float(metrics["repa_loss"]))
    assert reported[-1] < reported[0] - 0.02
    other, _ = checkpoints.restore(manager, state)
    # What is sampled from is what it would be without.
    ema_params = checkpoints.restore_ema(manager, params, manager.latest_step())
  assert ema_params.keys() == params.keys()
  assert int(other.step) == 3
  for _ in range(3):
    other, _ = train_step(other)
  assert jax.tree.leaves(other.projector)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ("changes", "field", "grid", "columns"),
  [
    ({}, "target_elixrc", (8, 8), ("elixrc",)),
    ({"repa__column": "contrastive_img_emb", "conditioning__reference": "self"},
     "target_contrastive_img_emb", None, ("contrastive_img_emb",)),
    ({"repa__column": "clip_patches", "repa__encoder": "standin"},
     "target_clip_patches", (8, 8), ("clip_patches",)),
  ],
)  # fmt: skip
def test_alignment_target_is_the_images_own_column(
  changes, field, grid, columns, build
):
  experiment = build(**{**ON, **changes})
  actual = experiment.alignment
  assert (actual.field, actual.grid) == (field, grid)
  assert experiment.targets.columns == columns
  assert build().alignment is None
  assert build().targets is None


def test_alignment_refuses_the_condition_as_target(build):
  with pytest.raises(errors.InputError) as caught:
    build(**{**ON, "conditioning__reference": "self"})
  for text in (
    "config.repa.column='elixrc'",
    "config.conditioning",
    "repa.weight to 0",
  ):
    assert text in str(caught.value)


@pytest.mark.parametrize(("layer", "width"), [(-1, 16), (0, 8)])
def test_alignment_uses_the_named_layer(layer, width, build):
  experiment = build(
    **ON,
    repa__layer=layer,
    model__block_channels=(8, 16),
    model__attention=(False, False),
  )
  params = experiment.alignment.init_fn(jax.random.key(0))
  assert params["layers_0"]["kernel"].shape == (width, 8)
  assert params["layers_2"]["kernel"].shape == (8, 1376)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("weight", -1.0, "config.repa.weight=-1.0; expected 0 or more"),
    ("column", "txt_emb", "config.repa.column='txt_emb'; expected a column made from"),
    ("column", "txt", "config.repa.column 'txt'; expected one of all_contrastive"),
    ("column", "clip_image", "without a CLIP; expected a folder, an id on the hub"),
    ("layer", 2, "config.repa.layer=2; expected 0 to 1, or -1"),
    ("projector_width", 0, "config.repa.projector_width=0"),
  ],
)
def test_alignment_refuses_wrong_values(key, value, message, build):
  with pytest.raises(errors.InputError) as caught:
    build(**{**ON, f"repa__{key}": value})
  assert message in str(caught.value)


def test_alignment_is_absent_without_its_section(small):
  plain = small.config().to_dict()
  del plain["repa"]
  assert experiment_lib.build(plain).alignment is None
