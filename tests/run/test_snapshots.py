"""Averages on disk: kept for good, made into any length after.

That a run with them goes on bit for bit is tested in `test_loop`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import snapshots

LENGTHS = (0.05, 0.1)
LIKE = {"a": jax.ShapeDtypeStruct((3,), jnp.float32)}


@dataclasses.dataclass(frozen=True)
class State:
  """As much of a state as a snapshot takes."""

  step: int
  power_ema: tuple


def _keep(folder, steps, value=lambda step, place: step + place):
  with snapshots.keeper(folder, LENGTHS) as keep:
    for step in steps:
      averages = tuple({"a": jnp.full(3, float(value(step, i)))} for i in range(2))
      keep(State(step, averages))


def _made(folder, length, step="newest", lengths=LENGTHS):
  params, step = snapshots.reconstruct(folder, lengths, length, LIKE, step)
  return np.asarray(params["a"]), step


def test_reconstruct_returns_a_tracked_length_as_saved(tmp_path):
  _keep(tmp_path, range(100, 1001, 100))
  for place, length in enumerate(LENGTHS):
    result, step = _made(tmp_path, length)
    assert step == 1000
    np.testing.assert_allclose(result, 1000 + place, rtol=1e-6)
    np.testing.assert_allclose(_made(tmp_path, length, 300)[0], 300 + place, rtol=1e-6)


def test_snapshots_are_never_deleted_or_rewritten(tmp_path):
  _keep(tmp_path, range(1, 9), lambda step, place: 5)
  _keep(tmp_path, [7, 8, 9], lambda step, place: 6)
  folders = sorted(int(path.name) for path in (tmp_path / "power_ema").iterdir())
  assert folders == list(range(1, 10))
  np.testing.assert_array_equal(_made(tmp_path, 0.05, 8)[0], 5.0)


def test_snapshots_that_were_interrupted_are_ignored(tmp_path):
  _keep(tmp_path, [1, 2])
  torn = tmp_path / "power_ema" / "3.orbax-checkpoint-tmp"
  torn.mkdir()
  assert _made(tmp_path, 0.05)[1] == 2
  _keep(tmp_path, [3])
  assert _made(tmp_path, 0.05)[1] == 3
  assert not torn.exists()


def test_keeper_without_lengths_writes_nothing(tmp_path):
  with snapshots.keeper(tmp_path, ()) as keep:
    keep(State(1, ()))
  assert not list(tmp_path.iterdir())


def test_reconstruct_lists_available_steps_and_lengths(tmp_path):
  with pytest.raises(errors.InputError, match=r"power_ema is empty.*power_ema=0\.05,0"):
    _made(tmp_path, 0.07, lengths=())
  with pytest.raises(errors.InputError, match="without snapshots in"):
    _made(tmp_path, 0.07)
  _keep(tmp_path, [100, 200])
  with pytest.raises(
    errors.InputError, match=r"step 150; expected .* 100, 200 \(tracked .*: 0.05, 0.1\)"
  ):
    _made(tmp_path, 0.07, 150)
  with pytest.raises(errors.InputError, match=r"at most 0\.2887"):
    _made(tmp_path, 0.5)
  with pytest.raises(errors.InputError, match=r"lengths 0\.05, 0\.1 .* error of 73%"):
    _made(tmp_path, 0.25)
