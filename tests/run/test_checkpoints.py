"""What is saved comes back, on any mesh; what is half is never taken for whole."""

import math
import os
import shutil
import types as python_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import checkpoints
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import optimizer

RUN = {"config": {"seed": 0}, "data": {"fingerprint": "f"}, "history": {}}


def _state(step: int, mesh: jax.sharding.Mesh) -> state_lib.TrainState:
  settings = optimizer.OptimizerSettings(learning_rate=0.1)
  params = {"to_q": {"kernel": jnp.arange(128.0 * 256).reshape(128, 256) + step}}
  state = state_lib.create(params, optimizer.make_optimizer(settings, 10).init)
  state = state.replace(step=jnp.int32(step))
  return jax.device_put(state, sharding.state_shardings(state, mesh, {}))


def _like(mesh: jax.sharding.Mesh) -> state_lib.TrainState:
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
    _state(0, mesh),
  )


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
  return mesh_lib.make_mesh(data=-1, fsdp=2)


@pytest.fixture
def manager(tmp_path):
  with checkpoints.open_manager(tmp_path, keep=2) as opened:
    yield opened


def test_restore_is_exact_on_another_mesh(manager, mesh):
  saved = _state(3, mesh)
  checkpoints.save(manager, saved, RUN, 0.5)
  checkpoints.wait(manager)
  for shape in ((1, 8, 1), (2, 2, 2), (1, 1, 1)):
    sizes = dict(zip(mesh_lib.AXES, shape, strict=True))
    other = mesh_lib.make_mesh(**sizes, num_devices=math.prod(shape))
    restored, run = checkpoints.restore(manager, _like(other))
    assert run == RUN
    for old, new in zip(jax.tree.leaves(saved), jax.tree.leaves(restored), strict=True):
      np.testing.assert_array_equal(old, new)
    kernel = restored.params["to_q"]["kernel"]
    assert dict(kernel.sharding.mesh.shape) == sizes
    assert len(kernel.sharding.device_set) == math.prod(shape)


def test_restore_ema_reads_only_the_average(manager, mesh):
  checkpoints.save(manager, _state(3, mesh), RUN)
  checkpoints.wait(manager)
  ema = checkpoints.restore_ema(manager, _like(mesh).ema_params, step=3)
  assert float(ema["to_q"]["kernel"][0, 0]) == 3.0


def test_find_step_knows_steps_best_and_newest(tmp_path, mesh):
  with checkpoints.open_manager(tmp_path, keep=3) as manager:
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.4)):
      checkpoints.save(manager, _state(step, mesh), RUN, loss)
    checkpoints.wait(manager)
    names = ("best", "newest", 3, "2")
    steps = [checkpoints.find_step(manager, name) for name in names]
    assert steps == [2, 3, 3, 2]
    with pytest.raises(errors.InputError, match=r"checkpoint 4; expected .* 3, best"):
      checkpoints.find_step(manager, 4)


def test_save_keeps_the_best_checkpoint_after_a_restart(tmp_path, mesh):
  for step, loss in enumerate([0.5, 0.1, 0.4, 0.3, 0.2], start=1):
    with checkpoints.open_manager(tmp_path, keep=1) as manager:
      checkpoints.save(manager, _state(step, mesh), RUN, loss)
  with checkpoints.open_manager(tmp_path, read_only=True) as manager:
    assert sorted(manager.all_steps()) == [2, 5]


def test_find_step_without_losses_takes_the_newest_for_the_best(manager, mesh):
  for step in (1, 2):
    checkpoints.save(manager, _state(step, mesh), RUN)
  checkpoints.wait(manager)
  assert checkpoints.find_step(manager, "best") == 2


def test_save_keeps_the_best_checkpoint_beside_newer_ones(manager, mesh):
  for step, loss in enumerate([0.5, 0.1, 0.4, 0.3, 0.2], start=1):
    checkpoints.save(manager, _state(step, mesh), RUN, loss)
  checkpoints.wait(manager)
  assert sorted(manager.all_steps()) == [2, 4, 5]


def test_open_manager_removes_an_interrupted_save(tmp_path, mesh):
  with checkpoints.open_manager(tmp_path) as first:
    checkpoints.save(first, _state(1, mesh), RUN)
    checkpoints.wait(first)
  whole = tmp_path / "checkpoints" / "1"
  torn = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  (torn / "state").mkdir(parents=True)
  with checkpoints.open_manager(tmp_path) as second:
    assert second.latest_step() == 1
    restored, _ = checkpoints.restore(second, _like(mesh))
    # Orbax tidies up beside the work, and waits for it before the next save.
    checkpoints.save(second, restored.replace(step=jnp.int32(2)), RUN)
    checkpoints.wait(second)
    assert not torn.exists()
    assert second.all_steps() == [1, 2]
  assert int(restored.step) == 1
  assert whole.is_dir()


def test_save_reports_a_full_disk_before_writing(manager, mesh, monkeypatch):
  checkpoints.save(manager, _state(1, mesh), RUN)
  checkpoints.wait(manager)
  monkeypatch.setattr(
    shutil,
    "disk_usage",
    lambda path: python_types.SimpleNamespace(free=1000),
  )
  message = r"0.0 MB free .* last whole one is of step 1"
  with pytest.raises(errors.InputError, match=message):
    checkpoints.save(manager, _state(2, mesh), RUN)
  assert manager.all_steps() == [1]


def test_restore_ema_refuses_a_damaged_checkpoint_and_names_the_previous(
  tmp_path, mesh
):
  with checkpoints.open_manager(tmp_path) as manager:
    for step in (1, 2):
      checkpoints.save(manager, _state(step, mesh), {"config": {}})
  for file in (tmp_path / "checkpoints" / "2" / "ema_params").rglob("d/*"):
    os.truncate(file, file.stat().st_size // 2)
  with (
    checkpoints.open_manager(tmp_path, read_only=True) as manager,
    pytest.raises(errors.InputError) as caught,
  ):
    checkpoints.restore_ema(manager, _like(mesh).ema_params, step=2)
  message = str(caught.value)
  assert f"checkpoint {tmp_path}/checkpoints/2 is damaged" in message
  assert "delete it to continue from step 1" in message
  assert len(message) < 500
