"""Where a run starts: resumed with other settings, or at another run's weights."""

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import checkpoints
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.training import denoiser_trainer, start

QUICK = {
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
  train, build, dataset, tmp_path
):
  trained, _ = train(tmp_path / "first", **QUICK)
  config = {**QUICK, "train__init_from": str(tmp_path / "first"), "seed": 1}
  experiment = build(**config)
  start.check_initial(experiment, trained.state.params)
  programs = denoiser_trainer.make_programs(experiment, dataset.card.statistics)
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
  other = build(model__block_channels=(16,), train__init_from=str(tmp_path))
  shapes = jax.eval_shape(other.recipe.init_fn, jax.random.key(0))
  with pytest.raises(errors.InputError, match=r"other parameters: .* there, .* here"):
    start.check_initial(other, shapes)


def test_check_initial_refuses_a_folder_without_a_run(build, tmp_path):
  experiment = build(train__init_from=str(tmp_path))
  with pytest.raises(errors.InputError, match=r"has no config\.json"):
    start.check_initial(experiment, {})
