"""Snapshots of power-profile averages, and averages of any length made from them.

  WORKDIR/power_ema/<step>/length_<length>     every `power_ema_every` steps and last
  (length, step) --power_ema.combine--> weights --sum of weight times snapshot--> params

Snapshots are never deleted. A resumed run repeats some steps; it would save the same
snapshots again, so existing ones are kept.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib

from absl import logging
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.run import checkpoints, power_ema
from cxr_diffusion_jax.run import state as state_lib

# Largest error of a combined profile, relative to the norm of the wanted one.
LARGEST_ERROR = 0.25


@contextlib.contextmanager
def keeper(
  workdir: artifacts.PathLike, lengths: Sequence[float]
) -> Iterator[Callable[[state_lib.TrainState], None]]:
  """Yields a function that saves a state's averages; all are on disk at the end.

  Args:
    lengths: of `TrainState.power_ema`, in its order.

  Raises:
    errors.InputError: there is no room, or a write failed.
  """
  if not lengths:
    yield lambda state: None
    return
  with checkpoints.open_snapshots(workdir) as manager:

    def keep(state: state_lib.TrainState) -> None:
      averages = dict(zip(map(_name, lengths), state.power_ema, strict=True))
      checkpoints.save_snapshot(manager, int(state.step), averages)

    yield keep


def reconstruct(
  workdir: artifacts.PathLike,
  lengths: Sequence[float],
  length: float,
  like: types.Params,
  checkpoint: int | str = checkpoints.NEWEST,
) -> tuple[types.Params, int]:
  """Combines snapshots to the average of any length.

  Args:
    lengths: relative lengths that the run tracked.
    length: the wanted one, in (0, `power_ema.LONGEST`].
    like: `jax.ShapeDtypeStruct`s with the wanted shardings.
    checkpoint: last step of the average, which has a snapshot. The losses of snapshots
      are not known, so `best` means the newest one too.

  Raises:
    errors.InputError: there is no snapshot, none of this step, or the tracked lengths
      are too far from the wanted one.
  """
  if not lengths:
    raise errors.InputError(
      f"ema_length={length:g} of a run whose config.train.power_ema is empty",
      fix="train with --config.train.power_ema=0.05,0.1, or leave it out for"
      " the average that the run has",
    )
  power_ema.power(length)
  folder = epath.Path(workdir) / checkpoints.SNAPSHOTS
  if not folder.exists():
    raise errors.InputError(
      f"ema_length={length:g} without snapshots in {folder}",
      fix="train on to a multiple of config.train.power_ema_every or to the last step",
    )
  with checkpoints.open_snapshots(workdir, read_only=True) as manager:
    steps = sorted(manager.all_steps())
    last = _step_of(checkpoint, steps)
    tracked = ", ".join(f"{value:g}" for value in lengths)
    if last is None:
      raise errors.InputError(
        f"ema_length={length:g} at step {checkpoint}",
        f"one of the steps of the snapshots, {', '.join(map(str, steps)) or 'none yet'}"
        f" (tracked lengths: {tracked})",
      )
    saved = [
      power_ema.Profile(length=value, step=number)
      for number in steps
      if number <= last
      for value in lengths
    ]
    wanted = power_ema.Profile(length=length, step=last)
    weights, error = power_ema.combine(saved, wanted)
    source = f"{len(saved)} averages of lengths {tracked} up to step {last}"
    if error > LARGEST_ERROR:
      raise errors.InputError(
        f"ema_length={length:g}, which {source} give with an error of {error:.0%}",
        f"an error of at most {LARGEST_ERROR:.0%}: a length nearer to those",
      )
    logging.info("EMA length %g of %s: error %.2g", length, source, error)
    return _weighted_sum(manager, saved, weights, like), last


def _step_of(checkpoint: int | str, steps: Sequence[int]) -> int | None:
  """The step of the snapshot that a checkpoint's name means; None for none."""
  names = {str(step): step for step in steps}
  if steps:
    names |= dict.fromkeys((checkpoints.BEST, checkpoints.NEWEST), steps[-1])
  return names.get(str(checkpoint))


def _weighted_sum(
  manager: checkpoints.Manager,
  saved: Sequence[power_ema.Profile],
  weights: np.ndarray,
  like: types.Params,
) -> types.Params:
  total = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), like)
  for profile, weight in zip(saved, weights.tolist(), strict=True):
    if abs(weight) > 1e-9:
      name = _name(profile.length)
      average = checkpoints.restore_snapshot(manager, profile.step, name, like)
      total = jax.tree.map(lambda t, a, w=weight: t + w * a, total, average)
  return total


def _name(length: float) -> str:
  return f"length_{length:g}"
