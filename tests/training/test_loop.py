"""What a run promises: it goes on as if nothing had been, anywhere, and safely."""

import dataclasses
import os
import pathlib
import signal

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import checkpoints
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.training import loop


def _assert_equal(one, two) -> None:
  """All arrays of two states are equal, bit for bit."""
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def _steps(folder: pathlib.Path) -> list[int]:
  return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(train, build, tmp_path):
  lengths = (0.05, 0.1)
  cosine = {
    "optimizer__schedule": "cosine",
    "train__power_ema": lengths,
    "train__power_ema_every": 2,
  }
  whole, told = train(tmp_path / "whole", **cosine)
  assert whole.reason == "finished"

  class Cut(Exception):
    pass

  def cut(step: int) -> None:
    if step == 5:
      raise Cut

  with pytest.raises(Cut):
    train(tmp_path / "cut", action=cut, **cosine)
  assert _steps(tmp_path / "cut") == [2, 4]
  resumed, told_again = train(tmp_path / "cut", **cosine)
  assert sorted(told_again.scalars) == [5, 6]
  assert told_again.losses() == told.losses()[4:]
  _assert_equal(whole.state, resumed.state)
  assert whole.history == resumed.history
  # All snapshots of averages are there, and what is sampled of them is the state's.
  kept = (tmp_path / "cut" / "power_ema").iterdir()
  assert sorted(int(path.name) for path in kept) == [2, 4, 6]
  experiment = build(**cosine)
  for length, average in zip(lengths, whole.state.power_ema, strict=True):
    made, step = run_lib.read_params(
      tmp_path / "cut", experiment.recipe, experiment.config, None, length
    )
    assert step == 6
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(average), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)
  with pytest.raises(errors.InputError, match=r"other config: train\.power_ema"):
    train(tmp_path / "cut", optimizer__schedule="cosine")


def test_eight_devices_learn_what_one_learns(train, tmp_path):
  # Large enough for both rules: tensor for attention, fsdp above its floor.
  model = {
    "model__block_channels": (32,),
    "model__context_width": 32,
    "optimizer__warmup_steps": 0,
    "train__num_steps": 4,
  }
  one, told = train(tmp_path / "one", **model)
  mesh = {f"parallel__{name}": 2 for name in ("data", "fsdp", "tensor")}
  many, told_by_many = train(
    tmp_path / "many", parallel__num_devices=0, **mesh, **model
  )
  leaves = jax.tree.leaves(many.state)
  assert any(not leaf.sharding.is_fully_replicated for leaf in leaves)
  assert all(len(leaf.sharding.device_set) == 8 for leaf in leaves)
  np.testing.assert_allclose(told_by_many.losses(), told.losses(), rtol=0, atol=1e-5)
  assert abs(one.history.best_loss - many.history.best_loss) < 1e-5
  assert len(set(told.losses())) == 4
  # What eight devices have saved, one goes on with, and loses nothing.
  longer = {**model, "train__num_steps": 6}
  alone, told_alone = train(tmp_path / "one", **longer)
  moved, told_moved = train(tmp_path / "many", **longer)
  assert sorted(told_moved.scalars) == [5, 6]
  assert int(moved.state.step) == int(alone.state.step) == 6
  np.testing.assert_allclose(
    told_moved.losses(), told_alone.losses(), rtol=0, atol=1e-5
  )


def test_signals_save_and_end_in_good_order(train, tmp_path):
  """One after the other stops the same run, which ends as if nothing had been."""
  for stop, number in ((3, signal.SIGTERM), (5, signal.SIGINT)):
    before = signal.getsignal(number)

    def send(step: int, stop=stop, number=number) -> None:
      if step == stop:
        os.kill(os.getpid(), number)

    outcome, _ = train(tmp_path / "cut", action=send)
    assert (outcome.reason, outcome.signal_number) == ("interrupted", number)
    assert int(outcome.state.step) == stop
    assert _steps(tmp_path / "cut")[-2:] == [stop - 1, stop]
    assert signal.getsignal(number) is before
  resumed, told = train(tmp_path / "cut")
  assert sorted(told.scalars) == [6]
  whole, _ = train(tmp_path / "whole")
  _assert_equal(whole.state, resumed.state)


def test_a_second_signal_is_not_swallowed(train, tmp_path):
  def send_twice(step: int) -> None:
    if step == 3:
      os.kill(os.getpid(), signal.SIGINT)
      os.kill(os.getpid(), signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    train(tmp_path, action=send_twice)
  assert max(_steps(tmp_path)) == 2


def test_a_loss_that_is_not_finite_stops_naming_step_and_metric(train, tmp_path):
  with pytest.raises(errors.InputError) as caught:
    train(
      tmp_path,
      optimizer__learning_rate=1e30,
      optimizer__clip_norm=0.0,
      train__log_every=100,
      train__checkpoint_every=1,
    )
  assert "is nan at step" in str(caught.value) or "is inf at step" in str(caught.value)
  assert "lower config.optimizer.learning_rate" in str(caught.value)
  for step in _steps(tmp_path):
    with checkpoints.open_manager(tmp_path, read_only=True) as manager:
      ema = checkpoints.restore_run(manager, step)
    assert ema["history"]["best_loss"] < np.inf


def test_another_config_is_refused_naming_the_keys(train, tmp_path):
  train(tmp_path, train__num_steps=2)
  with pytest.raises(errors.InputError) as caught:
    train(tmp_path, train__num_steps=2, seed=1, optimizer__b2=0.9)
  message = str(caught.value)
  assert "optimizer.b2 (0.99 there, 0.9 here)" in message
  assert "seed (0 there, 1 here)" in message
  assert "train.num_steps" not in message
  assert _steps(tmp_path) == [2]


def test_other_data_are_refused(train, tmp_path, dataset, monkeypatch):
  train(tmp_path, train__num_steps=2)
  other = dataclasses.replace(dataset.card, fingerprint="another")
  monkeypatch.setitem(vars(dataset), "card", other)
  with pytest.raises(errors.InputError, match="of other data: fingerprint"):
    train(tmp_path, train__num_steps=2)


def test_patience_ends_a_run_and_repeating_does_not_restart_it(
  train, tmp_path, monkeypatch
):
  losses = iter([1.0, 2.0, 3.0, 4.0])
  monkeypatch.setattr(loop, "validate", lambda *args: next(losses))
  outcome, _ = train(tmp_path, train__patience=2, train__checkpoint_every=1)
  assert outcome.reason == "no improvement"
  assert int(outcome.state.step) == 3
  assert outcome.history == loop.History(best_loss=1.0, best_step=1, since_best=2)
  # The best, and the newest two.
  assert _steps(tmp_path) == [1, 2, 3]
  again, told = train(tmp_path, train__patience=2, train__checkpoint_every=1)
  assert (again.reason, told.scalars) == ("no improvement", {})


def test_pictures_are_shown_before_at_intervals_and_after(build, dataset, tmp_path):
  shown = []
  experiment = build(train__sample_every=4)

  class Silent:
    def write_scalars(self, step, scalars):
      assert np.isfinite(list(scalars.values())).all(), step

    def flush(self):
      shown.append("flushed")

  loop.train(
    experiment,
    dataset,
    tmp_path,
    writer=Silent(),
    show=lambda params, step: shown.append(step),
  )
  assert shown == [0, 4, 6, "flushed"]
