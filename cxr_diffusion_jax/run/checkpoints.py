"""Checkpoints of a run: Orbax behind a few functions.

  WORKDIR/checkpoints/<step>/{state, ema_params, run, metrics}
  WORKDIR/power_ema/<step>/length_<length>      (see `snapshots`)

`state` is parameters and optimiser, `ema_params` what sampling reads alone, `run` the
config, the data's fingerprint and the history of the validation loss. A checkpoint is
written under a temporary name and renamed when whole, so a killed run leaves none that
is half; what is restored is always whole.
"""

from collections.abc import Iterator, Mapping
import contextlib
import pathlib
import re
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.run import state as state_lib

# Folder of a run's averages of power profiles.
SNAPSHOTS = "power_ema"


def make_manager(
  workdir: pathlib.Path, *, keep: int = 2, keep_every: int = 0, read_only: bool = False
) -> ocp.CheckpointManager:
  """Opens WORKDIR/checkpoints.

  Args:
    workdir: the run's folder.
    keep: newest checkpoints kept; the best by validation loss is always kept too.
    keep_every: keep also every checkpoint at a multiple of so many steps; 0 for none.
    read_only: for readers beside a running run: nothing is tidied up.
  """
  policies = ocp.checkpoint_managers
  preservation = [
    policies.LatestN(keep),
    policies.BestN(
      get_metric_fn=lambda metrics: metrics["validation_loss"],
      reverse=True,
      n=1,
      keep_checkpoints_without_metrics=False,
    ),
  ]
  if keep_every:
    preservation.append(policies.EveryNSteps(keep_every))
  return ocp.CheckpointManager(
    (workdir / "checkpoints").resolve(),
    item_names=("state", "ema_params", "run"),
    options=ocp.CheckpointManagerOptions(
      preservation_policy=policies.AnyPreservationPolicy(preservation),
      cleanup_tmp_directories=not read_only,
      create=not read_only,
      read_only=read_only,
    ),
  )


@contextlib.contextmanager
def open_manager(
  workdir: pathlib.Path, *, keep: int = 2, keep_every: int = 0, read_only: bool = False
) -> Iterator[ocp.CheckpointManager]:
  """Opens WORKDIR/checkpoints as `make_manager` does, and closes it.

  Raises:
    errors.InputError: on closing, where what was still being written failed.
  """
  with _closing(
    make_manager(workdir, keep=keep, keep_every=keep_every, read_only=read_only)
  ) as manager:
    yield manager


@contextlib.contextmanager
def _closing(manager: ocp.CheckpointManager) -> Iterator[ocp.CheckpointManager]:
  try:
    yield manager
  finally:
    with _telling(manager):
      manager.close()


def save(
  manager: ocp.CheckpointManager,
  state: state_lib.TrainState,
  run: Mapping[str, Any],
  validation_loss: float | None = None,
) -> None:
  """Starts to save a state; the write goes on while training does.

  Raises:
    errors.InputError: there is no room, or this or the previous save failed.
  """
  check_space(manager, state)
  metrics = None if validation_loss is None else {"validation_loss": validation_loss}
  with _telling(manager):
    manager.save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_without_average(state)),
        ema_params=ocp.args.StandardSave(state.ema_params),
        run=ocp.args.JsonSave(dict(run)),
      ),
      metrics=metrics,
      force=True,
    )


def open_snapshots(
  workdir: pathlib.Path, *, read_only: bool = False
) -> contextlib.AbstractContextManager[ocp.CheckpointManager]:
  """Opens WORKDIR/power_ema, where nothing is deleted, and closes it.

  Raises:
    errors.InputError: on closing, where what was still being written failed.
  """
  options = ocp.CheckpointManagerOptions(
    cleanup_tmp_directories=not read_only, create=not read_only, read_only=read_only
  )
  return _closing(
    ocp.CheckpointManager((workdir / SNAPSHOTS).resolve(), options=options)
  )


def save_snapshot(
  manager: ocp.CheckpointManager, step: int, averages: Mapping[str, types.Params]
) -> None:
  """Starts to save averages by their names, unless this step has been saved.

  Raises:
    errors.InputError: there is no room, or this or the previous save failed.
  """
  if step in manager.all_steps():
    return
  check_space(manager, averages)
  items = {name: ocp.args.StandardSave(tree) for name, tree in averages.items()}
  with _telling(manager):
    manager.save(step, args=ocp.args.Composite(**items), force=True)


def restore_snapshot(
  manager: ocp.CheckpointManager, step: int, name: str, like: types.Params
) -> types.Params:
  """Restores one average of a step, with the shardings of `like`."""
  args = ocp.args.Composite(**{name: ocp.args.StandardRestore(like)})
  return manager.restore(step, args=args)[name]


def wait(manager: ocp.CheckpointManager) -> None:
  """Waits until what `save` started is on disk.

  Raises:
    errors.InputError: it could not be written.
  """
  with _telling(manager):
    manager.wait_until_finished()


def restore(
  manager: ocp.CheckpointManager, like: state_lib.TrainState
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  """Restores the newest whole checkpoint.

  Args:
    manager: with a `latest_step()`.
    like: arrays or `jax.ShapeDtypeStruct`s with the shardings wanted now; the mesh
      may be another one than at the save.

  Returns:
    The state, and what was passed to `save` as `run`.
  """
  restored = manager.restore(
    manager.latest_step(),
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(_without_average(like)),
      ema_params=ocp.args.StandardRestore(like.ema_params),
      run=ocp.args.JsonRestore(),
    ),
  )
  parts = {"power_ema": (), **restored["state"], "ema_params": restored["ema_params"]}
  state = state_lib.TrainState(**{**parts, "power_ema": tuple(parts["power_ema"])})
  return state, restored["run"]


def restore_run(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
  """Restores what was passed to `save` as `run`, and nothing else."""
  return manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))[
    "run"
  ]


def restore_ema(
  manager: ocp.CheckpointManager, like: types.Params, step: int | None = None
) -> types.Params:
  """Restores the averaged parameters alone, without the optimiser.

  Args:
    manager: of the run.
    like: arrays or `jax.ShapeDtypeStruct`s with the shardings wanted.
    step: which checkpoint; the newest if None.

  Raises:
    errors.InputError: the run has no such checkpoint.
  """
  steps = sorted(manager.all_steps())
  if not steps:
    raise errors.InputError(
      f"no checkpoint in {manager.directory}", fix="train the run first"
    )
  if step is not None and step not in steps:
    raise errors.InputError(
      f"step {step}", f"one of the checkpoints {', '.join(map(str, steps))}"
    )
  return manager.restore(
    manager.latest_step() if step is None else step,
    args=ocp.args.Composite(ema_params=ocp.args.StandardRestore(like)),
  )["ema_params"]


def check_space(manager: ocp.CheckpointManager, saved: Any) -> None:
  """Raises `errors.InputError` where the disk has no room for one more such tree."""
  needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved))
  free = shutil.disk_usage(manager.directory).free
  if free < needed:
    raise errors.InputError(
      f"{free / 1e6:.1f} MB free for the checkpoints in {manager.directory}",
      f"{needed / 1e6:.1f} MB, the size of one",
      f"make room, then repeat the command: {_last(manager)}",
    )


def _without_average(state: state_lib.TrainState) -> dict[str, Any]:
  items = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
  # Only where there are any: a run without them is saved as it always was.
  some = {"power_ema": state.power_ema, "projector": state.projector}
  return items | {name: tree for name, tree in some.items() if tree}


def _last(manager: ocp.CheckpointManager) -> str:
  # The manager's list holds a save that has only begun; the folder does not.
  steps = [
    int(path.name)
    for path in pathlib.Path(manager.directory).iterdir()
    if path.name.isdigit()
  ]
  return f"the last whole one is of step {max(steps)}" if steps else "none is whole yet"


def _reason(error: Exception) -> str:
  """The end of TensorStore's long chains of names, which is what went wrong."""
  text = re.sub(r"\s*\[.*?\]", "", str(error)).strip()
  return text.split(": ")[-1][:200]


@contextlib.contextmanager
def _telling(manager: ocp.CheckpointManager) -> Iterator[None]:
  """Turns a failed write into one line; what was saved before is still whole."""
  try:
    yield
  except (OSError, ValueError) as error:
    raise errors.InputError(
      f"a checkpoint could not be written to {manager.directory} ({_reason(error)})",
      fix=f"make room or mend the disk, then repeat the command: {_last(manager)}",
    ) from error
