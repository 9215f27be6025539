"""Checkpoints that a run goes back before are moved, not deleted."""

import pathlib

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import checkpoints, set_aside
from tests.test_checksums import state_of


@pytest.fixture
def workdir(tmp_path):
  """A run with two checkpoints."""
  with checkpoints.open_manager(tmp_path) as manager:
    for step in (1, 2):
      checkpoints.save(manager, state_of(step), {"config": {}}, 0.5)
  return tmp_path


def _damage(path: pathlib.Path) -> None:
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def test_set_damaged_aside_goes_back_to_the_newest_whole_checkpoint(workdir):
  folder = workdir / "checkpoints"
  set_aside.set_damaged_aside(folder)
  assert not (workdir / "damaged").exists()
  _damage(max((folder / "2/state").rglob("*"), key=lambda path: path.stat().st_size))
  set_aside.set_damaged_aside(folder)
  assert (workdir / "damaged/2/state").is_dir()
  with checkpoints.open_manager(workdir) as manager:
    assert manager.all_steps() == [1]
    restored, _ = checkpoints.restore(manager, state_of(0))
    for old, new in zip(
      jax.tree.leaves(state_of(1)), jax.tree.leaves(restored), strict=True
    ):
      np.testing.assert_array_equal(old, new)
  _damage(next((folder / "1/run").rglob("metadata")))
  with pytest.raises(errors.InputError, match="and none is whole"):
    set_aside.set_damaged_aside(folder)
  assert (folder / "1").is_dir()


def test_set_later_aside_moves_checkpoints_and_snapshots(workdir):
  """Again only where the run continues with another rate."""
  (workdir / "power_ema/2").mkdir(parents=True)
  set_aside.set_later_aside(workdir, 1, {"rate": 0.1})
  assert set_aside.steps_in(workdir / "checkpoints") == [1]
  place = workdir / "set_aside/after_1-1"
  for name in ("checkpoints", "power_ema"):
    assert set_aside.steps_in(place / name) == [2]
  (place / "checkpoints/2").rename(workdir / "checkpoints/2")
  set_aside.set_later_aside(workdir, 1, {"rate": 0.1})
  assert set_aside.steps_in(workdir / "checkpoints") == [1, 2]
  set_aside.set_later_aside(workdir, 1, {"rate": 0.05})
  assert set_aside.steps_in(workdir / "checkpoints") == [1]


def test_set_later_aside_goes_back_with_rates_of_an_earlier_call(workdir):
  """Places are counted: the tenth comes after the second."""
  for number in range(12):
    (workdir / "checkpoints/2").mkdir(exist_ok=True)
    rates = {"rate": (0.1, 0.05)[number % 2]}
    set_aside.set_later_aside(workdir, 1, rates)
    assert set_aside.steps_in(workdir / "checkpoints") == [1]
  for step in (2, 3):
    (workdir / f"checkpoints/{step}").mkdir()
  set_aside.set_later_aside(workdir, 1, rates)
  assert set_aside.steps_in(workdir / "checkpoints") == [1, 2, 3]
  set_aside.set_later_aside(workdir, 2, {"rate": 0.01})
  set_aside.set_later_aside(workdir, 1, rates)
  assert set_aside.steps_in(workdir / "checkpoints") == [1]


def test_set_later_aside_continues_a_call_that_was_killed(workdir):
  """Without rates.json, which is written last, a place is not taken as done."""
  (workdir / "set_aside/after_1-1/checkpoints").mkdir(parents=True)
  set_aside.set_later_aside(workdir, 1, {"rate": 0.1})
  assert set_aside.steps_in(workdir / "checkpoints") == [1]


def test_set_later_aside_refuses_a_step_without_a_checkpoint(workdir):
  with pytest.raises(errors.InputError, match=r"no checkpoint 7 .*one of 1, 2"):
    set_aside.set_later_aside(workdir, 7, {})
  assert set_aside.steps_in(workdir / "checkpoints") == [1, 2]
