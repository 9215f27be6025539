"""Checksums of the files of a folder whose formats have none of their own.

  folder/* --seal--> folder/checksums.json
  folder --check--> nothing, or the file that is damaged

Checkpoints, stand-in encoders and exported networks have them. Buckets check what they
store, so files there are neither sealed nor checked.
"""

from collections.abc import Collection
import pathlib

import jax

from cxr_diffusion_jax import artifacts, checked_files, errors

FILE = "checksums.json"

# Orbax writes the last two after the others; nothing here reads them.
_UNSEALED = (FILE, "_CHECKPOINT_METADATA", "commit_success.txt")


class Damaged(OSError):
  """A file of a folder is missing, or is not what was written."""


def seal(folder: pathlib.Path, names: Collection[str] = ()) -> None:
  """Writes size and CRC32C of files of a folder on this machine.

  Args:
    names: of the files; all below the folder if empty.
  """
  paths = [folder / name for name in names] or sorted(folder.rglob("*"))
  sums = {
    path.relative_to(folder).as_posix(): _sum(path)
    for path in paths
    if path.is_file() and path.name not in _UNSEALED
  }
  checked_files.write_json(folder / FILE, sums)


def seal_written(checkpoints: artifacts.PathLike) -> None:
  """Seals the checkpoint that is being saved.

  Call it when its files are written and its folder still has a temporary name, so that
  a checkpoint never appears without.
  """
  if jax.process_index() == 0 and not artifacts.is_remote(checkpoints):
    for root in pathlib.Path(checkpoints).glob("*.orbax-checkpoint-tmp*"):
      seal(root)


def check(folder: artifacts.PathLike, parts: tuple[str, ...] = ()) -> None:
  """Compares the files of a folder with its checksums, if it has been sealed.

  Files that were added are not read, and are ignored.

  Args:
    parts: files and folders in it that are read; all of them if empty.

  Raises:
    Damaged: a file is missing or has changed.
  """
  root = pathlib.Path(folder)
  if artifacts.is_remote(folder) or not (root / FILE).is_file():
    return
  try:
    sums = checked_files.read_json(root / FILE)
  except errors.InputError as error:
    raise Damaged(f"{FILE} cannot be read") from error
  for name, expected in sums.items():
    if parts and name.split("/")[0] not in parts:
      continue
    if not (root / name).is_file() or _sum(root / name) != expected:
      raise Damaged(f"{name} is not as it was written")


def check_model(folder: pathlib.Path, parts: tuple[str, ...] = ()) -> None:
  """`check` of a network's folder; raises errors.InputError."""
  try:
    check(folder, parts)
  except Damaged as error:
    raise errors.InputError(
      f"{folder} is damaged: {error}",
      fix=f"copy or make it again, or delete its {FILE} if it was changed on purpose",
    ) from error


def _sum(path: pathlib.Path) -> list[int]:
  """Size and CRC32C."""
  return [path.stat().st_size, checked_files.checksum(path)]
