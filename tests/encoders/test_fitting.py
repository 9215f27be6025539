"""The loop that trains small networks: finds a minimum, repeats itself, and stops."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_diffusion_jax import checked_files
from cxr_diffusion_jax.encoders import fitting
from cxr_diffusion_jax.encoders.unfinished import Unfinished

X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5], np.float32)
OPTIONS = {"name": "line", "num_steps": 150, "batch_size": 8, "seed": 0}


def squared(key, params, batch):
  del key
  return jnp.square(batch["x"] @ params["w"] - batch["y"]).mean(), {"one": jnp.ones(())}


def read_batch(rows):
  return {"x": X[rows], "y": Y[rows]}


@pytest.fixture(scope="module")
def program():
  tx = optax.adam(fitting.learning_rate(0.2, OPTIONS["num_steps"]))
  return fitting.make_step_fn(squared, tx), tx


def start():
  return {"w": jnp.zeros(3)}


def test_fit_finds_the_minimum_and_repeats_itself(program):
  steps = []
  report = lambda *now: steps.append(now)  # noqa: E731
  fitted = fitting.fit(*program, start(), read_batch, 20, **OPTIONS, progress=report)
  params, losses = fitted.params, fitted.losses
  np.testing.assert_allclose(params["w"], [1, -2, 0.5], atol=0.02)
  assert [done for _, done, _ in steps] == list(range(1, 151))
  assert steps[0][0].startswith("line, loss ")
  assert losses[0] == {"one": 1.0, "loss": losses[0]["loss"]}
  again = fitting.fit(*program, start(), read_batch, 20, **OPTIONS)
  np.testing.assert_array_equal(params["w"], again.params["w"])
  assert losses == again.losses
  assert (fitted.figures, fitted.best_step) == ([], 150)


def test_fit_ends_on_a_plateau_with_the_best_parameters(program):
  figures, means, steps = [0.5, 0.7, 0.7, 0.6, 0.9], [], []

  def figure_fn(params):
    means.append(np.asarray(params["w"]))
    return (figures[len(means) - 1],)

  plateau = fitting.Plateau(figure_fn=figure_fn, check_every=10, patience=2)
  report = lambda *now: steps.append(now)  # noqa: E731
  fitted = fitting.fit(
    *program, start(), read_batch, 20, **OPTIONS, plateau=plateau, progress=report
  )
  # Neither equal nor lower is growth, and the fifth figure is never asked for.
  assert fitted.figures == [(10, (0.5,)), (20, (0.7,)), (30, (0.7,)), (40, (0.6,))]
  assert (fitted.best_step, len(fitted.losses)) == (20, 40)
  np.testing.assert_array_equal(fitted.params["w"], means[1])
  assert steps[-1][1:] == (40, 40)
  # A running mean lags behind.
  assert np.abs(means[0]).max() < np.abs(means[3]).max()


def test_fit_is_the_same_with_several_steps_in_a_call(program):
  def run(steps_per_call):
    means, reported = [], []
    plateau = fitting.Plateau(
      figure_fn=lambda params: means.append(np.asarray(params["w"])) or (0.5,),
      check_every=25,
      patience=3,
    )
    fitted = fitting.fit(
      *program,
      start(),
      read_batch,
      20,
      **OPTIONS,
      plateau=plateau,
      steps_per_call=steps_per_call,
      progress=lambda *now: reported.append(now[1:]),
    )
    return fitted, means, reported

  (one, means, reported), (several, same_means, same_reported) = run(1), run(10)
  # A call ends where a figure is due: 10, 20, 25, 35, ...
  assert [step for step, _ in several.figures] == [25, 50, 75, 100]
  assert (one.figures, one.best_step) == (several.figures, several.best_step)
  assert len(reported) == len(same_reported) == 100
  losses = [[step["loss"] for step in fitted.losses] for fitted in (one, several)]
  np.testing.assert_allclose(*losses, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(means, same_means, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(one.params["w"], several.params["w"], rtol=1e-5)


@pytest.mark.parametrize("steps_per_call", [1, 10])
def test_fit_resumes_an_interrupted_training_bit_for_bit(
  program, tmp_path, steps_per_call, monkeypatch
):
  monkeypatch.setattr(checked_files, "SAVE_PERIOD", 0)

  def run(kill_at, unfinished):
    reads = []

    def read(rows):
      reads.append(rows)
      if len(reads) == kill_at:
        raise KeyboardInterrupt
      return read_batch(rows)

    plateau = fitting.Plateau(
      figure_fn=lambda params: (round(float(params["w"][0]), 2),),
      check_every=25,
      patience=3,
    )
    options = {**OPTIONS, "plateau": plateau, "steps_per_call": steps_per_call}
    fitted = fitting.fit(*program, start(), read, 20, **options, unfinished=unfinished)
    return fitted, len(reads)

  whole, num_reads = run(0, None)
  unfinished = Unfinished(path=tmp_path / "state.npz", mark="a")
  for kill_at in (30, 31, 5):
    with pytest.raises(KeyboardInterrupt):
      run(kill_at, unfinished)
  other = Unfinished(path=tmp_path / "other.npz", mark="b")
  other.path.write_bytes(unfinished.path.read_bytes())
  again, num_again = run(0, other)
  resumed, num_left = run(0, unfinished)
  assert num_again == num_reads
  assert num_left < num_reads - 30
  for fitted in (again, resumed):
    np.testing.assert_array_equal(fitted.params["w"], whole.params["w"])
    assert fitted[1:] == whole[1:]
  unfinished.remove()
  other.remove()
  assert not [*tmp_path.iterdir()]


def test_damaged_state_of_a_training_starts_it_from_the_beginning(
  program, tmp_path, monkeypatch
):
  monkeypatch.setattr(checked_files, "SAVE_PERIOD", 0)
  unfinished = Unfinished(path=tmp_path / "state.npz", mark="a")
  whole = fitting.fit(*program, start(), read_batch, 20, **OPTIONS)
  fitting.fit(*program, start(), read_batch, 20, **OPTIONS, unfinished=unfinished)
  content = unfinished.path.read_bytes()
  unfinished.path.write_bytes(content[:-100])
  again = fitting.fit(
    *program, start(), read_batch, 20, **OPTIONS, unfinished=unfinished
  )
  np.testing.assert_array_equal(again.params["w"], whole.params["w"])


def test_steady_learning_rate_falls_over_the_last_quarter():
  schedule = fitting.steady_learning_rate(0.1, 2000)
  rates = [float(schedule(step)) for step in (0, 50, 100, 1499, 1750, 2000)]
  np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.1, 0.0505, 0.001], rtol=1e-5)


def test_fit_takes_the_last_figure_within_its_steps(program):
  plateau = fitting.Plateau(
    figure_fn=lambda params: (float(params["w"][0]),), check_every=40, patience=9
  )
  fitted = fitting.fit(
    *program, start(), read_batch, 20, **{**OPTIONS, "num_steps": 100}, plateau=plateau
  )
  assert [step for step, _ in fitted.figures] == [40, 80, 100]
  assert fitted.best_step in (40, 80, 100)


def test_fit_stops_on_a_loss_that_is_not_finite(program):
  for steps in (1, 10):
    nan = {"w": jnp.full(3, jnp.nan)}
    with pytest.raises(FloatingPointError, match="line at step 0"):
      fitting.fit(*program, nan, read_batch, 20, **OPTIONS, steps_per_call=steps)


def test_shuffled_rows_are_whole_passes():
  steps = list(fitting.shuffled_rows(6, 4, 3, seed=1))
  assert [len(rows) for rows in steps] == [3] * 4
  for first in (0, 2):
    assert sorted(np.concatenate(steps[first : first + 2]).tolist()) == list(range(6))
