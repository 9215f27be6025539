"""Checkpoints of a run: Orbax behind a few functions.

  WORKDIR/checkpoints/<step>/{state, ema_params, run, metrics}
  WORKDIR/power_ema/<step>/length_<length>      (see `snapshots`)

`state` is parameters and optimiser, `ema_params` is all that sampling reads, `run` is
the config, the dataset card and the history of the validation loss. A complete
checkpoint is renamed from a temporary name, so a killed run leaves no partial one.
"""

from collections.abc import Iterator, Mapping
import contextlib
import functools
import math
import re

from etils import epath
import jax
import orbax.checkpoint as ocp

from cxr_diffusion_jax import artifacts, checksums, disk, errors, types
from cxr_diffusion_jax.run import set_aside
from cxr_diffusion_jax.run import state as state_lib

Manager = ocp.CheckpointManager

# Folder of a run's averages of power profiles.
SNAPSHOTS = "power_ema"

# Names of checkpoints beside their steps: of the lowest validation loss, of the last.
BEST, NEWEST = "best", "newest"


def open_manager(
  workdir: artifacts.PathLike,
  *,
  keep: int = 2,
  keep_every: int = 0,
  read_only: bool = False,
) -> contextlib.AbstractContextManager[Manager]:
  """Opens WORKDIR/checkpoints, and closes it.

  Args:
    workdir: the run's folder.
    keep: newest checkpoints kept, besides the best by validation loss.
    keep_every: also keep checkpoints at multiples of this step; 0 for none.
    read_only: for readers while the run is training: nothing is cleaned up.

  Raises:
    errors.InputError: on closing, if a pending write failed.
  """
  policies = ocp.checkpoint_managers
  best = policies.BestN(
    get_metric_fn=_loss_of, reverse=True, n=1, keep_checkpoints_without_metrics=False
  )
  often = [policies.EveryNSteps(keep_every)] if keep_every else []
  kept = policies.AnyPreservationPolicy([policies.LatestN(keep), best, *often])
  # Without `best_fn`, losses are not written, and a resumed run forgets the best.
  choices = {"preservation_policy": kept, "best_fn": _loss_of}
  names = ("state", "ema_params", "run")
  return _opened(_absolute(workdir, "checkpoints"), read_only, names, **choices)


def _loss_of(metrics: Mapping[str, float]) -> float:
  return metrics.get("validation_loss", math.inf)


@contextlib.contextmanager
def _opened(
  place: epath.Path, read_only: bool, names: tuple[str, ...] | None = None, **choices
) -> Iterator[Manager]:
  """A manager, closed at the end."""
  seal = functools.partial(checksums.seal_written, place)
  options = ocp.CheckpointManagerOptions(
    cleanup_tmp_directories=not read_only,
    create=not read_only,
    read_only=read_only,
    async_options=ocp.AsyncOptions(post_finalization_callback=seal),
    **choices,
  )
  try:
    manager = ocp.CheckpointManager(place, item_names=names, options=options)
  except ValueError as error:
    raise errors.InputError(
      f"a file _CHECKPOINT_METADATA in {place} is damaged ({_reason(error)})",
      fix="delete those files: nothing else is lost",
    ) from error
  try:
    yield manager
  finally:
    with _writing(manager):
      manager.close()


def save(
  manager: Manager,
  state: state_lib.TrainState,
  run: artifacts.JsonMapping,
  validation_loss: float | None = None,
) -> None:
  """Starts to save a state; the write continues while training does.

  Raises:
    errors.InputError: there is no room, or this or the previous save failed.
  """
  check_space(manager, state)
  metrics = None if validation_loss is None else {"validation_loss": validation_loss}
  with _writing(manager):
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
  workdir: artifacts.PathLike, *, read_only: bool = False
) -> contextlib.AbstractContextManager[Manager]:
  """Opens WORKDIR/power_ema, where nothing is deleted, and closes it."""
  return _opened(_absolute(workdir, SNAPSHOTS), read_only)


def save_snapshot(
  manager: Manager, step: int, averages: Mapping[str, types.Params]
) -> None:
  """Like `save`, for averages by name; does nothing if this step has been saved."""
  if step in manager.all_steps():
    return
  check_space(manager, averages)
  items = {name: ocp.args.StandardSave(tree) for name, tree in averages.items()}
  with _writing(manager):
    manager.save(step, args=ocp.args.Composite(**items), force=True)


def restore_snapshot(
  manager: Manager, step: int, name: str, like: types.Params
) -> types.Params:
  """Restores one average of a step, with the shardings of `like`."""
  return _restore(manager, step, **{name: ocp.args.StandardRestore(like)})[name]


def wait(manager: Manager) -> None:
  """Waits until saves are on disk; raises `errors.InputError` if one failed."""
  with _writing(manager):
    manager.wait_until_finished()


def restore(
  manager: Manager, like: state_lib.TrainState
) -> tuple[state_lib.TrainState, artifacts.Json]:
  """Restores the newest checkpoint with the shardings of `like`, on any mesh.

  Returns:
    The state, and what was passed to `save` as `run`.
  """
  restored = _restore(
    manager,
    find_step(manager, NEWEST),
    state=ocp.args.StandardRestore(_without_average(like)),
    ema_params=ocp.args.StandardRestore(like.ema_params),
    run=ocp.args.JsonRestore(),
  )
  parts = {"power_ema": (), **restored["state"], "ema_params": restored["ema_params"]}
  state = state_lib.TrainState(**{**parts, "power_ema": tuple(parts["power_ema"])})
  return state, restored["run"]


def restore_run(manager: Manager, step: int) -> artifacts.Json:
  """Restores what was passed to `save` as `run`."""
  return _restore(manager, step, run=ocp.args.JsonRestore())["run"]


def find_step(manager: Manager, checkpoint: int | str) -> int:
  """Returns the step of a checkpoint: a step, `BEST` or `NEWEST`.

  The best is the newest where no checkpoint has a validation loss.

  Raises:
    errors.InputError: the run has no such checkpoint.
  """
  steps = sorted(manager.all_steps())
  if not steps:
    raise errors.InputError(
      f"no checkpoint in {manager.directory}", fix="train the run first"
    )
  if checkpoint == NEWEST:
    return steps[-1]
  if checkpoint == BEST:
    with _reading(manager, steps[-1]):
      losses = {step: _loss_of(manager.metrics(step) or {}) for step in steps}
    return min(reversed(steps), key=lambda step: losses[step])
  if str(checkpoint) in map(str, steps):
    return int(checkpoint)
  known = f"one of the steps {', '.join(map(str, steps))}, {BEST} or {NEWEST}"
  raise errors.InputError(f"checkpoint {checkpoint}", known)


def restore_ema(manager: Manager, like: types.Params, step: int) -> types.Params:
  """Restores the averaged parameters of a step that `find_step` returned."""
  restored = _restore(manager, step, ema_params=ocp.args.StandardRestore(like))
  return restored["ema_params"]


def ema_shapes(manager: Manager) -> dict[str, tuple[int, ...]]:
  """Shapes of the newest averaged parameters, by '/'-joined path."""
  step = find_step(manager, NEWEST)
  folder = epath.Path(manager.directory) / str(step) / "ema_params"
  with _reading(manager, step):
    tree: types.Params = ocp.StandardCheckpointer().metadata(folder)
    return named_shapes(dict(getattr(tree, "item_metadata", tree)))


def named_shapes(tree: types.Params) -> dict[str, tuple[int, ...]]:
  """Shapes of a tree's leaves by '/'-joined path."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  return {name(path): tuple(leaf.shape) for path, leaf in leaves}


def check_space(manager: Manager, saved: types.Params, num: int = 1) -> None:
  """Raises `errors.InputError` if the disk has no room for checkpoints of such a tree.

  `num` is how many there will be in all; one has to fit even if they are there.
  """
  if artifacts.is_remote(manager.directory):
    return
  num = max(1, num - len(manager.all_steps()))
  disk.check_room(
    manager.directory,
    num * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved)),
    f"{num} more checkpoints" if num > 1 else "a checkpoint",
    "make room, or keep fewer by --config.train.keep, then repeat the command:"
    f" {_last(manager)}",
  )


def _absolute(workdir: artifacts.PathLike, name: str) -> epath.Path:
  """A folder of a run; Orbax takes absolute paths only."""
  folder = epath.Path(workdir) / name
  return folder if artifacts.is_remote(workdir) else folder.resolve()


def _restore(
  manager: Manager, step: int, **items: ocp.args.CheckpointArgs
) -> types.Params:
  with _reading(manager, step):
    if jax.process_index() == 0:
      checksums.check(epath.Path(manager.directory) / str(step), tuple(items))
    return manager.restore(step, args=ocp.args.Composite(**items))


@contextlib.contextmanager
def _reading(manager: Manager, step: int) -> Iterator[None]:
  """Turns the errors of a damaged checkpoint into an `InputError`."""
  try:
    yield
  except (RuntimeError, MemoryError):  # of the device, not of the files
    raise
  except Exception as error:  # Orbax raises bare ones, where arrays are damaged
    others = sorted({*manager.all_steps()} - {step})
    older = f", or delete it to continue from step {others[-1]}" if others else ""
    raise errors.InputError(
      f"checkpoint {manager.directory}/{step} is damaged, or of another network"
      f" ({_reason(error)})",
      fix=f"copy it again{older}",
    ) from error


def _without_average(state: state_lib.TrainState) -> artifacts.Json:
  items = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
  some = {"power_ema": state.power_ema, "projector": state.projector}
  return items | {name: tree for name, tree in some.items() if tree}


def _last(manager: Manager) -> str:
  steps = set_aside.steps_in(manager.directory)
  return f"the last whole one is of step {steps[-1]}" if steps else "none is whole yet"


def _reason(error: Exception) -> str:
  """The end of TensorStore's long error message, which states the cause."""
  return re.sub(r"\s*\[.*?\]", "", str(error)).strip().split(": ")[-1][:200]


@contextlib.contextmanager
def _writing(manager: Manager) -> Iterator[None]:
  """Turns a failed write into an `InputError`; old checkpoints stay intact."""
  try:
    yield
  except (OSError, ValueError) as error:
    raise errors.InputError(
      f"a checkpoint could not be written to {manager.directory} ({_reason(error)})"
      + disk.free_space(manager.directory, disk.fault(error)),
      fix=f"make room or repair the disk, then repeat the command: {_last(manager)}",
    ) from error
