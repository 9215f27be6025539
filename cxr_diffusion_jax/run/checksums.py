"""Checksums of a checkpoint's files, since its format has none of its own.

  checkpoints/<step>/* --seal_written--> checkpoints/<step>/checksums.json
  checkpoints/<step> --check--> nothing, or the file that is damaged
  checkpoints/<newest> --set_damaged_aside--> damaged/<newest>

Buckets check what they store, so files there are neither sealed nor checked.
"""

from collections.abc import Iterator, Mapping
import pathlib

from absl import logging
import jax

from cxr_diffusion_jax import artifacts, checked_files, errors

FILE = "checksums.json"

# Orbax writes the last two after the others; nothing here reads them.
_UNSEALED = (FILE, "_CHECKPOINT_METADATA", "commit_success.txt")


class Damaged(OSError):
  """A file of a checkpoint is missing, or is not what was written."""


def seal_written(checkpoints: artifacts.PathLike) -> None:
  """Writes size and CRC32C of every file of the checkpoint that is being saved.

  Call it when its files are written and its folder still has a temporary name, so that
  a checkpoint never appears without.
  """
  if jax.process_index() == 0 and not artifacts.is_remote(checkpoints):
    for root in pathlib.Path(checkpoints).glob("*.orbax-checkpoint-tmp*"):
      sums = {path.relative_to(root).as_posix(): _sum(path) for path in _files(root)}
      artifacts.write_json(root / FILE, sums)


def check(folder: artifacts.PathLike, parts: tuple[str, ...] = ()) -> None:
  """Compares the files of a checkpoint with its checksums, if it has been sealed.

  Args:
    parts: folders in it that are read; all of them if empty.

  Raises:
    Damaged: a file is missing, was added or has changed.
  """
  if artifacts.is_remote(folder) or not (pathlib.Path(folder) / FILE).is_file():
    return
  root = pathlib.Path(folder)

  def wanted(name: str) -> bool:
    return not parts or name.split("/")[0] in parts

  try:
    sums = dict(artifacts.read_json(root / FILE))
  except (errors.InputError, ValueError, TypeError) as error:
    raise Damaged(f"{FILE} cannot be read") from error
  present = {path.relative_to(root).as_posix(): path for path in _files(root)}
  for name in sorted(filter(wanted, sums.keys() | present.keys())):
    if name not in present or name not in sums or _sum(present[name]) != sums[name]:
      raise Damaged(f"{name} is not as it was written")


def set_damaged_aside(checkpoints: artifacts.PathLike) -> None:
  """Moves the newest checkpoints away until one is whole, so that a run resumes there.

  Raises:
    errors.InputError: none is whole.
  """
  root = pathlib.Path(checkpoints)
  if artifacts.is_remote(checkpoints) or not root.is_dir():
    return
  steps = _steps(root)
  damaged = []
  for step in reversed(steps):
    try:
      check(root / str(step))
      break
    except Damaged as error:
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

  Where that was done before with the same rates, nothing is moved, so that the same
  command resumes the newest checkpoint.

  Args:
    rates: what the run goes on with, kept beside what is moved.

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
  before = sorted((root / "set_aside").glob(f"after_{step}-*"))
  for place in before:
    mark = place / "rates.json"
    if mark.exists() and artifacts.read_json(mark) == dict(rates):
      logging.info("checkpoints after %d were set aside before, in %s", step, place)
      return
  steps = _steps(root / "checkpoints")
  if step not in steps:
    raise errors.InputError(
      f"no checkpoint {step} in {root}",
      f"one of {', '.join(map(str, steps))}" if steps else "a run with checkpoints",
    )
  place = root / "set_aside" / f"after_{step}-{len(before) + 1}"
  for name in ("checkpoints", "power_ema"):
    (place / name).mkdir(parents=True, exist_ok=True)
    for later in _steps(root / name):
      if later > step:
        (root / name / str(later)).rename(place / name / str(later))
        logging.warning("%s/%d is moved to %s", name, later, place)
  # Last, so that a call that was killed moves the rest.
  artifacts.write_json(place / "rates.json", dict(rates))


def _steps(folder: pathlib.Path) -> list[int]:
  """Steps of the checkpoints or snapshots in a folder, ascending."""
  names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def _files(root: pathlib.Path) -> Iterator[pathlib.Path]:
  return (
    path
    for path in sorted(root.rglob("*"))
    if path.is_file() and path.name not in _UNSEALED
  )


def _sum(path: pathlib.Path) -> list[int]:
  """Size and CRC32C."""
  return [path.stat().st_size, checked_files.checksum(path)]
