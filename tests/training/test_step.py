"""One update: its average, its parts, its dropping; and a validation: rows count."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_diffusion_jax import types
from cxr_diffusion_jax.diffusion import loss as loss_lib
from cxr_diffusion_jax.diffusion import process as process_lib
from cxr_diffusion_jax.diffusion import schedule as schedule_lib
from cxr_diffusion_jax.diffusion import time_sampler as time_sampler_lib
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import divergence
from cxr_diffusion_jax.training import step as step_lib
from tests.fixtures import empirical


@dataclasses.dataclass(frozen=True)
class Conditioner:
  """One token, of the field `hint` [b 2]."""

  columns = ("hint",)
  streams = (types.StreamSpec(name="hint", num_tokens=1, width=2),)

  def __call__(self, batch: types.Batch) -> types.Context:
    tokens = jnp.asarray(batch["hint"])[:, None]
    return (types.TokenStream(tokens=tokens, mask=jnp.ones(tokens.shape[:2], bool)),)


def _apply(variables, x_t, t, context, rngs=None):
  """A denoiser of three parameters: a x_t + b t / 1000 + c (kept token's sum)."""
  del rngs
  p = variables["params"]
  (stream,) = context
  token = jnp.where(stream.mask[..., None], stream.tokens, 0).sum((1, 2))
  shape = (-1, 1, 1, 1)
  return (
    p["a"] * x_t + (p["b"] * t / 1000).reshape(shape) + (p["c"] * token).reshape(shape)
  )


@pytest.fixture
def objective() -> step_lib.Objective:
  return step_lib.Objective(
    denoiser=denoiser_lib.Denoiser(
      apply_fn=_apply,
      codec=codec_lib.Pixel(),
      conditioner=Conditioner(),
      process=process_lib.Process(
        schedule=schedule_lib.load("rectified_flow")(), prediction="velocity"
      ),
    ),
    time_sampler=time_sampler_lib.load("logit_normal")(stratified=True),
    weighting=loss_lib.load("uniform")(),
    drop_rates=(0.0,),
  )


@pytest.fixture
def batch() -> types.Batch:
  rng = np.random.default_rng(0)
  return {
    "image": rng.uniform(-1, 1, (8, 4, 4, 1)).astype(np.float32),
    "hint": rng.normal(size=(8, 2)).astype(np.float32),
    "row": np.arange(8, dtype=np.int32),
    "valid": np.ones(8, bool),
  }


def test_train_step_tells_the_network_how_images_were_changed(objective, batch):
  seen = {}

  def apply(variables, x_t, t, context, rngs=None):
    seen["context"], seen["x_t"] = context, x_t
    return _apply(variables, x_t, t, context[:1], rngs)

  changed = dataclasses.replace(
    objective,
    augment=1.0,
    denoiser=dataclasses.replace(objective.denoiser, apply_fn=apply),
  )
  optimizer = optax.sgd(0.1)
  options = dict(seed=0, ema_decay=0.9, accumulation=1)
  step_lib.train_step(changed, optimizer, _state(optimizer), batch, **options)
  hint, changes = seen["context"]
  assert changes.tokens.shape == (8, 1, 8)
  assert changes.mask.all()
  assert hint.tokens.shape == (8, 1, 2)
  step_lib.validation_step(changed, _state(optimizer).params, batch, seed=0)
  assert len(seen["context"]) == 1


def _state(optimizer, step: int = 0) -> state_lib.TrainState:
  params = {"a": jnp.float32(0.3), "b": jnp.float32(-0.2), "c": jnp.float32(0.5)}
  return state_lib.create(params, optimizer.init).replace(step=jnp.int32(step))


def _update(objective, batch, *, step=0, accumulation=1, ema_decay=0.9, seed=0):
  optimizer = optax.sgd(0.1)
  state = _state(optimizer, step)
  new, metrics = step_lib.train_step(
    objective,
    optimizer,
    state,
    batch,
    seed=seed,
    ema_decay=ema_decay,
    accumulation=accumulation,
  )
  return state, new, metrics


@pytest.mark.parametrize(
  ("step", "decay"), [(0, 0.1), (8, 9 / 18), (80, 81 / 90), (10_000, 0.95)]
)
def test_train_step_warms_up_the_average(step, decay, objective, batch):
  old, new, _ = _update(objective, batch, step=step, ema_decay=0.95)
  assert int(new.step) == step + 1
  for name in old.params:
    assert new.params[name] != old.params[name]
    wanted = decay * old.ema_params[name] + (1 - decay) * new.params[name]
    np.testing.assert_allclose(new.ema_params[name], wanted, rtol=1e-6)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_train_step_of_parts_equals_that_of_the_batch(accumulation, objective, batch):
  _, whole, reported = _update(objective, batch)
  _, parts, reported_of_parts = _update(objective, batch, accumulation=accumulation)
  for name in ("loss", "grad_norm"):
    np.testing.assert_allclose(reported_of_parts[name], reported[name], rtol=1e-5)
  for name in whole.params:
    np.testing.assert_allclose(parts.params[name], whole.params[name], rtol=1e-5)


def test_train_step_reports_the_norm_of_its_gradient(objective, batch):
  old, new, metrics = _update(objective, batch)
  change = [(old.params[name] - new.params[name]) / 0.1 for name in old.params]
  np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(change), rtol=1e-4)


def test_train_step_drops_activations_and_validation_does_not(objective, batch):
  keys = []

  def apply_fn(*inputs, rngs=None):
    keys.append(rngs)
    return _apply(*inputs)

  denoiser = dataclasses.replace(objective.denoiser, apply_fn=apply_fn)
  objective = dataclasses.replace(objective, denoiser=denoiser)
  old, _, _ = _update(objective, batch)
  assert [set(rngs) for rngs in keys] == [{"dropout"}]
  step_lib.validation_step(objective, old.params, batch, seed=0)
  assert keys[1:] == [None, None]


@pytest.mark.parametrize("accumulation", [1, 2, 8])
def test_train_step_drops_other_activations_in_each_part(
  accumulation, objective, batch, monkeypatch
):
  """The gradient of each of 256 numbers is the mean of its mask over the rows."""

  def masks(key, rows):
    return jax.random.bernoulli(key, 0.5, (rows, 256)).astype(jnp.float32)

  def apply_fn(variables, x_t, t, context, rngs):
    return variables["params"]["a"] * masks(rngs["dropout"], len(x_t))

  monkeypatch.setattr(step_lib, "losses", lambda _, output, *rest: output.sum(1))
  denoiser = dataclasses.replace(objective.denoiser, apply_fn=apply_fn)
  optimizer = optax.sgd(-1.0)
  after, _ = step_lib.train_step(
    dataclasses.replace(objective, denoiser=denoiser),
    optimizer,
    state_lib.create({"a": jnp.zeros(256)}, optimizer.init),
    batch,
    seed=0,
    ema_decay=0.9,
    accumulation=accumulation,
  )
  means = np.asarray(after.params["a"])
  # Eight independent masks; one for all would have a variance of 0.25.
  assert means.var() == pytest.approx(0.25 / 8, rel=0.3)
  if accumulation == 1:
    key = jax.random.fold_in(denoiser_lib.stream_key(0, denoiser_lib.TRAIN_STREAM), 0)
    expected = masks(jax.random.fold_in(key, 4), 8).mean(0)
    np.testing.assert_array_equal(means, expected)


def test_train_step_learns_nothing_from_a_dropped_stream(objective, batch):
  always = dataclasses.replace(objective, drop_rates=(1.0,))
  old, new, _ = _update(always, batch)
  assert new.params["c"] == old.params["c"]
  assert new.params["a"] != old.params["a"]


def test_train_step_keeps_a_stream_that_is_never_dropped(objective, batch):
  """The gradient of c is that of the full context, computed by hand."""
  _old, new, _ = _update(objective, batch)
  key = jax.random.fold_in(denoiser_lib.stream_key(0, denoiser_lib.TRAIN_STREAM), 0)
  time_key, noise_key, _ = jax.random.split(key, 3)
  t = objective.time_sampler(time_key, 8, objective.denoiser.process.schedule)
  x_t, noise = objective.denoiser.process.corrupt(noise_key, batch["image"], t)
  token = batch["hint"].sum(1).reshape(8, 1, 1, 1)
  prediction = 0.3 * x_t - 0.2 * t.reshape(8, 1, 1, 1) + 0.5 * token
  error = prediction - (noise - batch["image"])
  wanted = 0.5 - 0.1 * 2 * np.mean(error * token)
  np.testing.assert_allclose(new.params["c"], wanted, rtol=1e-5)


def test_train_step_is_deterministic_in_step_and_seed(objective, batch):
  losses = {
    (seed, step): float(_update(objective, batch, seed=seed, step=step)[2]["loss"])
    for seed in (0, 1)
    for step in (0, 1)
  }
  assert len(set(losses.values())) == 4
  assert float(_update(objective, batch)[2]["loss"]) == losses[0, 0]


def _validate(objective, batch) -> dict[str, float]:
  params = _state(optax.sgd(0.1)).params
  step = functools.partial(step_lib.validation_step, objective, params, seed=0)
  sums = jax.jit(step)(batch)
  return {name: float(value) for name, value in sums.items()}


def test_validation_step_does_not_depend_on_the_batch(objective, batch):
  whole = _validate(objective, batch)
  assert whole["count"] == 8
  totals: dict[str, float] = {}
  # Threes, the last filled up with a row that does not count.
  for rows, valid in (([0, 1, 2], 3), ([3, 4, 5], 3), ([6, 7, 7], 2)):
    part = {name: value[rows] for name, value in batch.items()}
    part["valid"] = np.arange(3) < valid
    for name, value in _validate(objective, part).items():
      totals[name] = totals.get(name, 0) + value
  assert totals == pytest.approx(whole, rel=1e-6)


def test_validation_step_measures_the_value_of_the_condition(objective, batch):
  sums = _validate(objective, batch)
  assert sums["loss"] != sums["loss_unconditional"]
  blind = {**batch, "hint": np.zeros_like(batch["hint"])}
  without = _validate(objective, blind)
  assert without["loss"] == pytest.approx(sums["loss_unconditional"], rel=1e-6)


def test_losses_of_rows_have_fixed_times_and_noise(objective, batch):
  params = _state(optax.sgd(0.1)).params
  step = functools.partial(step_lib.row_losses, objective, params, num_times=4)
  whole = np.asarray(jax.jit(step)(batch))
  assert whole.shape == (8, 4)
  # Rows in another order, and one alone.
  turned = np.asarray(step({name: value[::-1] for name, value in batch.items()}))
  np.testing.assert_allclose(turned[::-1], whole, rtol=1e-4)
  alone = np.asarray(step({name: value[2:3] for name, value in batch.items()}))
  np.testing.assert_allclose(alone, whole[2:3], rtol=1e-4)
  assert len(np.unique(whole)) == whole.size


def test_losses_of_rows_are_lower_for_memorised_images(objective):
  rng = np.random.default_rng(0)
  seen, unseen = rng.uniform(-1, 1, (2, 40, 4, 4, 1)).astype(np.float32)
  memorised = empirical.empirical_denoiser(seen, objective.denoiser.process)
  denoiser = dataclasses.replace(
    objective.denoiser,
    apply_fn=lambda variables, x_t, t, context: memorised(x_t, t / 1000, context),
  )
  step = functools.partial(
    step_lib.row_losses, dataclasses.replace(objective, denoiser=denoiser), {}
  )
  hints = np.zeros((40, 2), np.float32)
  of_seen, of_unseen = (
    np.asarray(
      step({"image": images, "hint": hints, "row": np.arange(40)}, num_times=8)
    )
    for images in (seen, unseen)
  )
  assert of_seen.mean(axis=1).max() < of_unseen.mean(axis=1).min()


def _guarded(objective, batch, state):
  optimizer = optax.adam(0.1)
  step = functools.partial(
    step_lib.train_step, objective, optimizer, seed=0, ema_decay=0.9, accumulation=1
  )
  return jax.jit(divergence.guarded(step))(state, batch)


def test_guarded_step_leaves_out_the_update_of_a_row_that_is_not_finite(
  objective, batch
):
  optimizer = optax.adam(0.1)
  state, _ = _guarded(objective, batch, _state(optimizer))
  batch["hint"][3] = np.nan
  after, metrics = _guarded(objective, batch, state)
  assert np.isnan(metrics["loss"])
  assert int(after.step) == int(state.step) + 1
  for old, new in zip(
    jax.tree.leaves(state.replace(step=0)),
    jax.tree.leaves(after.replace(step=0)),
    strict=True,
  ):
    np.testing.assert_array_equal(new, old)


def test_rows_step_has_the_losses_whose_mean_the_step_minimises(objective, batch):
  state = _state(optax.adam(0.1), step=4)
  _, metrics = _guarded(objective, batch, state)
  rows = step_lib.rows_step(objective, state, batch, 5, seed=0)
  np.testing.assert_allclose(np.mean(rows["loss"]), metrics["loss"], rtol=1e-6)
  batch["hint"][3] = np.nan
  examine = divergence.with_inputs(
    functools.partial(step_lib.rows_step, objective, seed=0)
  )
  broken = examine(state, batch, 5)
  for name in ("loss", "finite_hint"):
    flags = np.isfinite(broken[name]) if name == "loss" else broken[name]
    np.testing.assert_array_equal(flags, np.arange(8) != 3)
  np.testing.assert_array_equal(broken["t"], rows["t"])
