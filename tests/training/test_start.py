"""Where a run starts: resumed with other settings, or at another run's weights."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import base as encoders
from cxr_diffusion_jax.encoders.clip import small as clip_small
from cxr_diffusion_jax.encoders.columns import clip as clip_columns
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import checkpoints, set_aside
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import start

QUICK = {
  "size": "dit_tiny",
  "optimizer__schedule": "cosine",
  "train__num_steps": 2,
  "train__power_ema": (0.1,),
}


def test_start_continues_a_finished_run_with_more_steps(train, tmp_path, caplog):
  train(tmp_path, **QUICK)
  with caplog.at_level("INFO"):
    outcome, _ = train(tmp_path, **{**QUICK, "train__num_steps": 3})
  assert (outcome.reason, int(outcome.state.step)) == ("finished", 3)
  assert "config.train.num_steps: 2 -> 3" in caplog.text
  assert "the cosine learning rate now ends at step 3" in caplog.text


def test_start_takes_the_averaged_parameters_of_another_run(
  train, build, dataset, share_programs, tmp_path
):
  trained, _ = train(tmp_path / "first", **QUICK)
  config = {**QUICK, "train__init_from": str(tmp_path / "first")}
  experiment = build(**config)
  start.check_initial(experiment, trained.state.params)
  programs = share_programs(experiment, dataset.card.statistics)
  with checkpoints.open_manager(tmp_path / "second") as manager:
    state, history = start.start(experiment.config, programs, manager, dataset.card)
  assert (int(state.step), history) == (0, {})
  for tree in (state.params, state.ema_params, *state.power_ema):
    jax.tree.map(np.testing.assert_array_equal, tree, trained.state.ema_params)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
  # What was donated or shared would fail here.
  outcome, _ = train(tmp_path / "second", **config)
  assert int(outcome.state.step) == 2
  assert run_lib.open_run(tmp_path / "second").checkpoint_step == 2


def test_check_initial_refuses_other_networks_naming_parameters(train, build, tmp_path):
  train(tmp_path, **QUICK)
  other = build("dit_tiny", model__width=16, train__init_from=str(tmp_path))
  shapes = jax.eval_shape(other.recipe.init_fn, jax.random.key(0))
  with pytest.raises(errors.InputError, match=r"other parameters: .* there, .* here"):
    start.check_initial(other, shapes)


def test_check_initial_refuses_a_folder_without_a_run(build, tmp_path):
  experiment = build(train__init_from=str(tmp_path))
  with pytest.raises(errors.InputError, match=r"has no config\.json"):
    start.check_initial(experiment, {})


def _save_clip(folder, seed: int) -> str:
  sizes = clip_small.SmallClip(
    image_size=16, patch_size=8, width=16, image_layers=1, text_layers=1, num_heads=2,
    embedding=8, num_merges=20, max_tokens=16,
  )  # fmt: skip
  model = clip_small.create(
    np.random.default_rng(seed),
    sizes=sizes,
    tokenizer=clip_small.train_tokenizer(["an effusion"], sizes),
    pixel_mean=0.5,
    pixel_std=0.25,
  )
  clip_small.save(model, folder)
  return str(folder)


def test_check_resumable_accepts_an_encoder_elsewhere_and_refuses_another(
  build, dataset, tmp_path
):
  first, other = (_save_clip(tmp_path / f"clip_{i}", seed=i) for i in (1, 2))
  moved = str(shutil.copytree(first, tmp_path / "moved"))
  column = card_lib.ColumnCard(
    encoder=clip_columns.load(first).description, standin=False, fingerprint="f"
  )
  card = dataclasses.replace(dataset.card, columns={"clip_image": column})
  config = build().config

  def with_encoder(place: str) -> dict:
    return {**config, "conditioning": {**config["conditioning"], "encoder": place}}

  run = {"config": with_encoder(first), "data": card.to_json(), "history": {}}
  state = state_lib.create({"a": jax.numpy.zeros(2)}, lambda learned: learned)
  with checkpoints.open_manager(tmp_path / "run") as manager:
    checkpoints.save(manager, state, run)

  def check(place: str) -> bool:
    needs = encoders.needs("clip_image", model=place)
    return start.check_resumable(tmp_path / "run", with_encoder(place), needs=needs)

  assert check(first)
  assert check(moved)
  with pytest.raises(errors.InputError, match="which made the column clip_image"):
    check(other)


def test_check_resumable_takes_another_rate_from_a_step_that_is_named(
  build, dataset, tmp_path
):
  """The flag --from_step; without it the change is refused."""
  config = build().config
  lower = {**config, "optimizer": {**config["optimizer"], "learning_rate": 1e-5}}
  state = state_lib.create({"a": jax.numpy.zeros(2)}, lambda learned: learned)
  run = {"config": config, "data": dataset.card.to_json(), "history": {}}
  with checkpoints.open_manager(tmp_path) as manager:
    for step in (1, 2):
      checkpoints.save(manager, state.replace(step=jax.numpy.int32(step)), run)
  with pytest.raises(errors.InputError, match=r"optimizer\.learning_rate"):
    start.check_resumable(tmp_path, lower)
  assert start.check_resumable(tmp_path, lower, from_step=1)
  assert set_aside.steps_in(tmp_path / "checkpoints") == [1]
