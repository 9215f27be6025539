"""The training loop: resuming, meshes, signals, refusals, periods."""

import dataclasses
import itertools
import os
import pathlib
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import checkpoints, set_aside
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import divergence, loop, train_settings
from cxr_diffusion_jax.training import optimizer as optimizer_lib

CARD = card_lib.DatasetCard(
  fingerprint="0123",
  fingerprints={"labels": "0123"},
  kind="phantom",
  phantom=True,
  vocabulary=("Mass",),
  image_size=8,
  resize="crop",
  num_rows={"train": 8},
  statistics={},
  columns={},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
  """A `loop.Trainable` of one number, to which each step adds its batch."""

  experiment: types.SimpleNamespace
  dataset: types.SimpleNamespace
  losses: list = dataclasses.field(default_factory=list)
  shown: list = dataclasses.field(default_factory=list)
  bad_steps: tuple[int, ...] = ()

  @property
  def programs(self):
    return types.SimpleNamespace(
      init=_init,
      like=_init,
      train_step=divergence.guarded(self.step),
      examine=divergence.with_inputs(lambda state, batch, step: {"loss": batch["x"]}),
    )

  def batches(self, start_step):
    for step in itertools.count(start_step + 1):
      bad = step in self.bad_steps
      x = jnp.array([1 / step, jnp.nan if bad else 1 / step], jnp.float32)
      yield {"x": x, "row": jnp.array([0, 1])}

  def step(self, state, batch):
    step = state.step + 1
    params = {"a": state.params["a"] + batch["x"].mean()}
    state = state.replace(step=step, params=params, ema_params=params)
    return state, {"loss": params["a"]}

  def validate(self, params):
    loss = self.losses.pop(0) if self.losses else float(params["a"])
    return {"loss": loss, "other": 1.0}

  def show(self, params, step):
    self.shown.append(step)
    return Image.new("L", (4, 4))


def _init():
  return state_lib.create({"a": jnp.zeros(())}, lambda params: params)


class Writer:
  """A CLU metric writer that keeps what it gets."""

  def __init__(self):
    self.scalars, self.images = {}, []

  def write_scalars(self, step, scalars):
    self.scalars.setdefault(step, {}).update(scalars)

  def write_images(self, step, images):
    self.images.append((step, images["samples"].shape))

  def flush(self):
    self.flushed = True


@pytest.fixture
def run_toy(tmp_path):
  """Trains a toy: `outcome, writer, toy = run_toy(patience=2, seed=1)`."""

  def run(
    *,
    action=lambda step: None,
    seed=0,
    num_steps=6,
    learning_rate=0.1,
    card=CARD,
    losses=(),
    bad_steps=(),
    **changes,
  ):
    defaults = {"log_every": 1, "checkpoint_every": 2, "sample_every": 0}
    settings = {**defaults, "validate_every": 100, "batch_size": 1, **changes}
    experiment = types.SimpleNamespace(
      autoencoder=None,
      train=train_settings.TrainSettings(num_steps=num_steps, **settings),
      optimizer=optimizer_lib.OptimizerSettings(
        learning_rate=learning_rate, schedule="constant"
      ),
      config={
        "seed": seed,
        "data": {"image_size": 8},
        "optimizer": {"schedule": "constant", "learning_rate": learning_rate},
        "train": {"num_steps": num_steps},
      },
    )
    toy = Toy(
      experiment=experiment,
      dataset=types.SimpleNamespace(
        card=card,
        settings=None,
        columns=(),
        records=types.SimpleNamespace(ids=lambda split: np.array(["a.png", "b.png"])),
      ),
      losses=list(losses),
      bad_steps=bad_steps,
    )
    writer = Writer()
    outcome = loop.train(toy, tmp_path, writer=writer, actions=[action])
    return outcome, writer, toy

  return run


def _assert_equal(one, two) -> None:
  """All arrays of two states are equal, bit for bit."""
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def _steps(folder: pathlib.Path) -> list[int]:
  return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


LENGTHS = (0.05, 0.1)
COSINE = {
  "optimizer__schedule": "cosine",
  "train__power_ema": LENGTHS,
  "train__power_ema_every": 2,
}


def test_train_resumes_bit_for_bit(train, build, tmp_path):
  whole, writer = train(tmp_path / "whole", **COSINE)
  assert whole.reason == "finished"

  class Cut(Exception):
    pass

  def cut(step: int) -> None:
    if step == 5:
      raise Cut

  with pytest.raises(Cut):
    train(tmp_path / "cut", action=cut, **COSINE)
  assert _steps(tmp_path / "cut") == [2, 4]
  resumed, writer_again = train(tmp_path / "cut", **COSINE)
  assert sorted(writer_again.scalars) == [5, 6]
  assert writer_again.losses() == writer.losses()[4:]
  assert len(set(writer.losses())) == 6
  _assert_equal(whole.state, resumed.state)
  assert whole.history == resumed.history
  # All snapshots of averages are there, and reconstruct the averages of the state.
  snapshots = (tmp_path / "cut" / "power_ema").iterdir()
  assert sorted(int(path.name) for path in snapshots) == [2, 4, 6]
  experiment = build(**COSINE)
  for length, average in zip(LENGTHS, whole.state.power_ema, strict=True):
    params, step = run_lib.read_params(
      tmp_path / "cut", experiment.recipe, experiment.config, "newest", length
    )
    assert step == 6
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(average), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)
  with pytest.raises(errors.InputError, match=r"other config: train\.power_ema"):
    train(tmp_path / "cut", optimizer__schedule="cosine")


def test_train_on_eight_devices_equals_one(train, tmp_path, monkeypatch):
  # So that these small kernels are split by both rules.
  monkeypatch.setattr(sharding, "FSDP_FLOOR", 64)
  one, writer = train(tmp_path / "one", **COSINE)

  def stop(step: int) -> None:
    if step == 4:
      os.kill(os.getpid(), signal.SIGTERM)

  mesh = {f"parallel__{name}": 2 for name in ("data", "fsdp", "tensor")}
  many, writer_of_many = train(
    tmp_path / "many", action=stop, parallel__num_devices=0, **mesh, **COSINE
  )
  leaves = jax.tree.leaves(many.state)
  specs = {axis for leaf in leaves for axis in leaf.sharding.spec}
  assert {"fsdp", "tensor"} <= specs
  assert all(len(leaf.sharding.device_set) == 8 for leaf in leaves)
  # One device resumes what eight devices have saved, and loses nothing.
  moved, writer_of_moved = train(tmp_path / "many", **COSINE)
  assert sorted(writer_of_moved.scalars) == [5, 6]
  assert set_aside.steps_in(tmp_path / "many/power_ema") == [2, 4, 6]
  losses = writer_of_many.losses() + writer_of_moved.losses()
  np.testing.assert_allclose(losses, writer.losses(), rtol=0, atol=1e-5)
  assert abs(one.history.best_loss - moved.history.best_loss) < 1e-5


def test_train_saves_and_ends_on_each_signal(run_toy, tmp_path):
  """One after the other stops the same run, which ends as if uninterrupted."""
  for stop, number in ((3, signal.SIGTERM), (5, signal.SIGINT)):
    before = signal.getsignal(number)

    def send(step: int, stop=stop, number=number) -> None:
      if step == stop:
        os.kill(os.getpid(), number)

    outcome, *_ = run_toy(action=send)
    assert (outcome.reason, outcome.signal_number) == ("interrupted", number)
    assert int(outcome.state.step) == stop
    assert _steps(tmp_path)[-2:] == [stop - 1, stop]
    assert signal.getsignal(number) is before
  resumed, writer, _ = run_toy()
  assert (resumed.reason, resumed.signal_number) == ("finished", 0)
  assert sorted(writer.scalars) == [6]
  assert 0 < writer.scalars[6]["train/goodput"] < 1
  expected = np.float32(0)
  for number in range(1, 7):
    expected += np.float32(1 / number)
  assert float(resumed.state.params["a"]) == float(expected)


def test_train_does_what_is_due_at_the_step_that_a_signal_ends(run_toy, tmp_path):
  """So that the run then ends as if uninterrupted."""

  def send(step: int) -> None:
    if step == 4:
      os.kill(os.getpid(), signal.SIGTERM)

  changes = {"num_steps": 20, "patience": 2, "sample_every": 4}
  stopped, writer, toy = run_toy(action=send, losses=[3.0, 1.0], **changes)
  assert (stopped.reason, stopped.step, toy.shown) == ("interrupted", 4, [0, 4])
  assert writer.scalars[4]["validation/loss"] == 1
  resumed, *_ = run_toy(losses=[2.0, 2.0, 2.0], **changes)
  assert (resumed.reason, resumed.step) == ("no improvement", 8)
  assert resumed.history == loop.History(best_loss=1.0, best_step=4, since_best=2)
  with checkpoints.open_manager(tmp_path, read_only=True) as manager:
    assert checkpoints.find_step(manager, checkpoints.BEST) == 4


def test_train_finishes_despite_a_signal_in_the_last_step(run_toy):
  def send(step: int) -> None:
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)

  outcome, _, toy = run_toy(action=send, num_steps=2, sample_every=2, losses=[1.0])
  assert (outcome.reason, toy.shown) == ("finished", [0, 2])
  assert outcome.history == loop.History(best_loss=1.0, best_step=2)


def test_train_gives_a_checkpoint_of_a_signal_no_loss_between_periods(
  run_toy, tmp_path
):
  def send(step: int) -> None:
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  changes = {"validate_every": 3, "num_steps": 4}
  run_toy(action=send, losses=[3.0, 1.0], **changes)
  outcome, *_ = run_toy(losses=[2.0], **changes)
  assert outcome.history.best_step == 3
  with checkpoints.open_manager(tmp_path, read_only=True) as manager:
    assert checkpoints.find_step(manager, checkpoints.BEST) == 4


def test_train_stops_at_once_on_a_second_signal(run_toy, tmp_path):
  def send_twice(step: int) -> None:
    if step == 3:
      os.kill(os.getpid(), signal.SIGINT)
      os.kill(os.getpid(), signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    run_toy(action=send_twice)
  assert max(_steps(tmp_path)) == 2


@pytest.mark.parametrize("log_every", [1, 100])
def test_train_stops_at_an_infinite_loss_and_names_the_step(
  log_every, run_toy, tmp_path
):
  with pytest.raises(errors.InputError) as caught:
    run_toy(bad_steps=(4,), checkpoint_every=1, log_every=log_every)
  message, rows = str(caught.value), tmp_path / "diverged" / "step_4.csv"
  assert f"train/loss is nan at step 4; the rows of its batch are in {rows}" in message
  assert (
    "--from_step 3, the newest checkpoint, or an earlier one (1, 2), and" in message
  )
  assert max(_steps(tmp_path)) == 3
  assert rows.read_text().splitlines() == [
    "image,row,loss,finite_x",
    "b.png,1,nan,False",
    "a.png,0,0.25,True",
  ]
  with checkpoints.open_manager(tmp_path, read_only=True) as manager:
    history = checkpoints.restore_run(manager, 3)["history"]
  assert history["best_loss"] < np.inf


def test_train_says_that_there_is_no_checkpoint_before_the_first(run_toy):
  with pytest.raises(errors.InputError, match="there is no checkpoint yet"):
    run_toy(bad_steps=(1,))


def test_train_skips_steps_that_are_not_finite(run_toy, tmp_path):
  """Their updates are left out; the step, and with it batch and noise, goes on."""
  outcome, writer, _ = run_toy(bad_steps=(2, 3), on_nan="skip", max_skipped=2)
  expected = sum(1 / step for step in (1, 4, 5, 6))
  np.testing.assert_allclose(outcome.state.params["a"], expected, rtol=1e-6)
  np.testing.assert_array_equal(
    outcome.state.ema_params["a"], outcome.state.params["a"]
  )
  assert int(outcome.state.step) == 6
  named = [
    (s, v["train/skipped"]) for s, v in writer.scalars.items() if "train/skipped" in v
  ]
  assert named == [(2, 1), (3, 1)]
  assert all(np.isfinite(list(v.values())).all() for v in writer.scalars.values())
  names = {path.name for path in (tmp_path / "diverged").iterdir()}
  assert names == {"step_2.csv", "step_3.csv"}


def test_train_ends_after_too_many_skipped_in_a_row(run_toy):
  with pytest.raises(errors.InputError, match="nan at step 5") as caught:
    run_toy(bad_steps=(2, 4, 5), on_nan="skip", max_skipped=1)
  assert "on_nan=skip" not in str(caught.value)


def test_train_goes_on_with_a_lower_rate_from_an_earlier_step(run_toy, tmp_path):
  """What the error names: the newest checkpoint, or an earlier one by from_step."""
  changes = {"checkpoint_every": 1, "keep": 9}
  with pytest.raises(errors.InputError):
    run_toy(bad_steps=(5,), **changes)
  set_aside.set_later_aside(tmp_path, 2, {"rate": 0.05})
  assert _steps(tmp_path) == [1, 2]
  aside = tmp_path / "set_aside" / "after_2-1" / "checkpoints"
  assert {path.name for path in aside.iterdir()} == {"3", "4"}
  outcome, *_ = run_toy(learning_rate=0.05, **changes)
  assert outcome.history.changes == [
    "from step 3: config.optimizer.learning_rate: 0.1 -> 0.05"
  ]
  # The same command again resumes; it goes back again with another rate only.
  set_aside.set_later_aside(tmp_path, 2, {"rate": 0.05})
  assert max(_steps(tmp_path)) == 6
  with pytest.raises(errors.InputError, match=r"no checkpoint 7 .*one of 1, 2"):
    set_aside.set_later_aside(tmp_path, 7, {"rate": 0.05})
  set_aside.set_later_aside(tmp_path, 2, {"rate": 0.01})
  assert max(_steps(tmp_path)) == 2


def test_train_stops_at_an_infinite_validation_loss(run_toy, tmp_path):
  with pytest.raises(errors.InputError, match="validation/loss is inf at step 2"):
    run_toy(losses=[np.inf])
  assert _steps(tmp_path) == []


def test_train_refuses_another_config_and_names_the_keys(run_toy, tmp_path):
  run_toy(num_steps=2)
  with pytest.raises(errors.InputError, match=r"seed \(0 there, 1 here\)") as caught:
    run_toy(num_steps=4, seed=1)
  assert "train.num_steps" not in str(caught.value)
  assert _steps(tmp_path) == [2]


def test_train_refuses_other_data(run_toy):
  run_toy(num_steps=2)
  with pytest.raises(errors.InputError, match="of other data: labels"):
    run_toy(
      num_steps=4, card=dataclasses.replace(CARD, fingerprints={"labels": "another"})
    )


def test_train_ends_after_patience_and_does_not_restart(run_toy, tmp_path):
  changes = {"patience": 2, "checkpoint_every": 1, "losses": [1.0, 2.0, 3.0, 4.0]}
  outcome, *_ = run_toy(**changes)
  assert outcome.reason == "no improvement"
  assert int(outcome.state.step) == 3
  assert outcome.history == loop.History(best_loss=1.0, best_step=1, since_best=2)
  # The best, and the newest two.
  assert _steps(tmp_path) == [1, 2, 3]
  again, writer, _ = run_toy(**changes)
  assert (again.reason, writer.scalars) == ("no improvement", {})


def test_train_draws_pictures_before_at_intervals_and_after(run_toy, tmp_path):
  _, writer, toy = run_toy(sample_every=4)
  assert toy.shown == [0, 4, 6]
  assert writer.images == [(step, (1, 4, 4, 1)) for step in toy.shown]
  files = sorted(path.name for path in (tmp_path / "samples").iterdir())
  assert files == [f"step_{step:07d}.png" for step in toy.shown]
  assert writer.flushed
  assert writer.scalars[6]["validation/other"] == 1
  assert writer.scalars[3]["train/examples"] == 3
