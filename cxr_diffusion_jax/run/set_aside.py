"""Moves checkpoints away, so that a run resumes from an earlier one; deletes nothing.

checkpoints/<newest> --set_damaged_aside--> damaged/<newest>
checkpoints/<later>, power_ema/<later> --set_later_aside--> set_aside/after_<step>-1
"""

from collections.abc import Mapping
import pathlib

from absl import logging
from etils import epath

from cxr_diffusion_jax import artifacts, checksums, errors


def steps_in(folder: artifacts.PathLike) -> list[int]:
  """Steps of the checkpoints or snapshots that a folder has whole, ascending.

  A manager also lists a save that has only begun; its folder does not have that name.
  """
  folder = epath.Path(folder)
  # An empty folder of a bucket does not exist.
  names = [path.name for path in folder.iterdir()] if folder.exists() else []
  return sorted(int(name) for name in names if name.isdigit())


def set_damaged_aside(checkpoints: artifacts.PathLike) -> None:
  """Moves the newest checkpoints away until one is whole, so that a run resumes there.

  Raises:
    errors.InputError: none is whole.
  """
  root = pathlib.Path(checkpoints)
  if artifacts.is_remote(checkpoints) or not root.is_dir():
    return
  steps = steps_in(root)
  damaged = []
  for step in reversed(steps):
    try:
      checksums.check(root / str(step))
      break
    except checksums.Damaged as error:
      damaged.append((step, error))
  if damaged and len(damaged) == len(steps):
    step, error = damaged[0]
    raise errors.InputError(
      f"checkpoint {root / str(step)} is damaged ({error}), and none is whole",
      fix="copy it again, or start in another folder",
    ) from error
  for step, error in damaged:
    place = root.parent / "damaged" / str(step)
    place.parent.mkdir(exist_ok=True)
    if place.exists():
      place = place.with_name(f"{step}-{len(list(place.parent.iterdir()))}")
    (root / str(step)).rename(place)
    logging.error(
      "checkpoint %d is damaged (%s): moved to %s, going on from an older one",
      *(step, error, place),
    )


def set_later_aside(
  workdir: artifacts.PathLike, step: int, rates: Mapping[str, object]
) -> None:
  """Moves the checkpoints and snapshots after a step to WORKDIR/set_aside.

  Where the last call had the same step and rates, nothing is moved, so that the same
  command resumes the newest checkpoint.

  Args:
    rates: names and values of the rates that the run continues with; written beside
      what is moved.

  Raises:
    errors.InputError: there is no such checkpoint, or the workdir is a bucket.
  """
  if artifacts.is_remote(workdir):
    raise errors.InputError(
      f"an earlier checkpoint of {workdir}",
      "a workdir on disk",
      "copy the run's folder without its later checkpoints",
    )
  root = pathlib.Path(workdir)
  ends = (path.name.split("-")[-1] for path in (root / "set_aside").glob("after_*-*"))
  # Calls are numbered over all steps.
  number = max((int(end) for end in ends if end.isdigit()), default=0)
  last = root / "set_aside" / f"after_{step}-{number}"
  mark = last / "rates.json"
  if mark.exists() and artifacts.read_json(mark) == dict(rates):
    logging.info("checkpoints after %d were set aside before, in %s", step, last)
    return
  steps = steps_in(root / "checkpoints")
  if step not in steps:
    raise errors.InputError(
      f"no checkpoint {step} in {root}",
      f"one of {', '.join(map(str, steps))}" if steps else "a run with checkpoints",
    )
  place = root / "set_aside" / f"after_{step}-{number + 1}"
  for name in ("checkpoints", "power_ema"):
    (place / name).mkdir(parents=True, exist_ok=True)
    for later in steps_in(root / name):
      if later > step:
        (root / name / str(later)).rename(place / name / str(later))
        logging.warning("%s/%d is moved to %s", name, later, place)
  # Last, so that a call that was killed moves the rest.
  artifacts.write_json(place / "rates.json", dict(rates))
