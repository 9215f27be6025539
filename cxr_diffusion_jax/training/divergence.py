"""What happens to a step whose loss, gradient or parameters are not finite.

step --guarded--> the state before it, but for `step`     (the update is not applied)
its scalars --Watch.check--> the rows of its batch in WORKDIR/diverged/step_<step>.csv,
  and it is skipped, or an error ends the run and says what there is to go on from
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import os

from absl import logging
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.data import csv_text
from cxr_diffusion_jax.run import set_aside
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import train_settings

# Below WORKDIR.
FOLDER = "diverged"

# Fields in which nan is a value: unknown.
_MAY_BE_NAN = ("age", "boxes", "expert", "findings")

Step = Callable[..., tuple[state_lib.TrainState, dict[str, jax.Array]]]


def guarded(function: Step) -> Step:
  """A step whose update is not applied if a scalar or a parameter is not finite.

  The step number rises in any case, so that the next step has another batch and noise.
  Its scalars have `param_norm`, the norm of the updated parameters, too.
  """

  def guarded_step(
    state: state_lib.TrainState, batch: types.Batch, *constants: types.Params
  ) -> tuple[state_lib.TrainState, dict[str, jax.Array]]:
    new, scalars = function(state, batch, *constants)
    scalars = {**scalars, "param_norm": optax.tree.norm(new.params)}
    finite = functools.reduce(jnp.logical_and, map(jnp.isfinite, scalars.values()))
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
    return kept.replace(step=new.step), scalars

  return guarded_step


def with_inputs(
  function: Callable[..., dict[str, jax.Array]],
) -> Callable[..., dict[str, jax.Array]]:
  """Adds `row` [b] to values of rows [b], and which fields of them are finite."""

  def examine(state, batch, step):
    finite = {
      f"finite_{name}": jnp.isfinite(value).reshape(len(value), -1).all(axis=1)
      for name, value in batch.items()
      if jnp.issubdtype(value.dtype, jnp.floating) and name not in _MAY_BE_NAN
    }
    return {"row": batch["row"], **function(state, batch, step), **finite}

  return examine


@dataclasses.dataclass(kw_only=True)
class Watch:
  """Decides what a step that is not finite does to a run.

  Attributes:
    examine: (state, step) -> values [b] of the rows of that step's batch, with `row`.
    ids: -> names [n] of the images that `row` counts.
    in_a_row: how many of the last steps were not finite.
  """

  workdir: artifacts.PathLike
  settings: train_settings.TrainSettings
  examine: Callable[[state_lib.TrainState, int], Mapping[str, np.ndarray]]
  ids: Callable[[], np.ndarray]
  in_a_row: int = 0

  def check(
    self, state: state_lib.TrainState, step: int, scalars: Mapping[str, float]
  ) -> None:
    """Writes the rows of a step that is not finite; raises if the run ends with it.

    Args:
      state: a state with finite parameters, of that step or later.

    Raises:
      errors.InputError: it is not finite, and it or too many in a row end the run.
    """
    broken = [(name, v) for name, v in scalars.items() if not math.isfinite(v)]
    if not broken:
      self.in_a_row = 0
      return
    self.in_a_row += 1
    # On every host, because each holds a part of the batch.
    columns = self.examine(state, step)
    path = epath.Path(self.workdir) / FOLDER / f"step_{step}.csv"
    if jax.process_index() == 0:
      _write_rows(path, columns, self.ids())
    name, value = broken[0]
    rows = f"; the rows of its batch are in {os.fspath(path)}"
    limit = self.settings.max_skipped if self.settings.on_nan == "skip" else 0
    if self.in_a_row > limit:
      raise not_finite(
        f"train/{name}", value, step, self.workdir, rows, may_skip=limit == 0
      )
    logging.warning("skipped step %d: train/%s is %s%s", step, name, value, rows)


def _write_rows(
  path: epath.Path, columns: Mapping[str, np.ndarray], ids: np.ndarray
) -> None:
  """Writes the rows of a batch as CSV, those that are not finite first."""
  whole = np.all(
    [v if v.dtype == bool else np.isfinite(v) for v in columns.values()], axis=0
  )
  names = sorted(columns, key=lambda n: (n != "row", n.startswith("finite_"), n))
  rows: list[tuple[object, ...]] = [("image", *names)]
  for index in np.argsort(whole, kind="stable"):
    values = (columns[name][index].item() for name in names)
    rows.append((str(ids[columns["row"][index]]), *values))
  path.parent.mkdir(parents=True, exist_ok=True)
  artifacts.write_text(path, csv_text.csv_text(rows))


def not_finite(
  name: str,
  value: float,
  step: int,
  workdir: artifacts.PathLike,
  more: str = "",
  *,
  may_skip: bool = False,
) -> errors.InputError:
  """The error of a scalar that is not finite; it says what there is to go on from.

  Args:
    more: appended to what was found.
    may_skip: whether skipping the step is another way on.
  """
  steps = set_aside.steps_in(epath.Path(workdir) / "checkpoints")
  rates = "a lower --config.optimizer.learning_rate or --config.optimizer.clip_norm"
  if steps:
    *earlier, newest = steps
    others = f", or an earlier one ({', '.join(map(str, earlier))})" if earlier else ""
    fix = (
      f"repeat the command with --from_step {newest}, the newest checkpoint{others},"
      f" and {rates}"
    )
  else:
    fix = f"there is no checkpoint yet: repeat the command with {rates}"
  if may_skip:
    fix += "; or with --config.train.on_nan=skip"
  return errors.InputError(
    f"{name} is {value} at step {step}{more}", "a finite number", fix
  )
