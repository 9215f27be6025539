"""Checksums of a checkpoint's files, since its format has none of its own.

  checkpoints/<step>/* --seal_written--> checkpoints/<step>/checksums.json
  checkpoints/<step> --check--> nothing, or the file that is damaged

Buckets check what they store, so files there are neither sealed nor checked.
"""

from collections.abc import Iterator
import pathlib

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


def _files(root: pathlib.Path) -> Iterator[pathlib.Path]:
  return (
    path
    for path in sorted(root.rglob("*"))
    if path.is_file() and path.name not in _UNSEALED
  )


def _sum(path: pathlib.Path) -> list[int]:
  """Size and CRC32C."""
  return [path.stat().st_size, checked_files.checksum(path)]
