"""Writes files completely or not at all, on local disks and in buckets.

write NAME.partial -> flush to disk -> rename to NAME
new_folder: write aside -> rename to FOLDER, with a manifest of what is in it

Paths are `etils.epath` paths: a local folder, `gs://bucket/...` or `s3://bucket/...`.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import io
import json
import os
import pathlib
from typing import Any

from etils import epath
import numpy as np

from cxr_diffusion_jax import disk, errors, staging

PathLike = str | os.PathLike

# A JSON object or a section of a config: names to plain values, lists and sections.
Json = dict[str, Any]
JsonMapping = Mapping[str, Any]

SUFFIX = staging.SUFFIX

# Lists the files of a folder that a command wrote, with their sizes; written last.
MANIFEST = "manifest.json"

# The file that `copy_files` copies last.
COPIED_LAST = "config.json"


def is_remote(path: PathLike) -> bool:
  """Whether a path names a bucket rather than a folder of this machine."""
  return "://" in os.fspath(path)


def write_bytes(path: PathLike, content: bytes) -> None:
  """Replaces a file; readers see the old content or the new, never a mixture.

  Raises:
    OSError: the folder is read-only or full; the old file is untouched.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if is_remote(path):
    # Object stores replace an object atomically.
    path.write_bytes(content)
    return
  partial = f"{os.fspath(path)}{SUFFIX}"
  try:
    with open(partial, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      os.unlink(partial)
    # Errors of `write` and `fsync` name no file.
    error.filename = os.fspath(path)
    raise


def write_text(path: PathLike, text: str) -> None:
  """`write_bytes` in UTF-8, with line ends unchanged."""
  write_bytes(path, text.encode())


def write_json(path: PathLike, value: object) -> None:
  """`write_text` of JSON, indented, keys in their own order."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: PathLike) -> Any:
  """Reads JSON.

  Raises:
    errors.InputError: the file is absent, unreadable or not JSON.
  """
  try:
    # From bytes, which may begin with a byte-order mark.
    return json.loads(epath.Path(path).read_bytes())
  except FileNotFoundError as error:
    raise errors.InputError(f"no such file: {os.fspath(path)}") from error
  except (OSError, ValueError, RecursionError) as error:
    raise errors.InputError(f"{path} is not readable JSON: {error}") from error


def write_npz(
  path: PathLike, arrays: Mapping[str, np.ndarray], *, compressed: bool = False
) -> None:
  """`write_bytes` of named arrays as an .npz, without pickle."""
  buffer = io.BytesIO()
  save = np.savez_compressed if compressed else np.savez
  save(buffer, **arrays, allow_pickle=False)
  write_bytes(path, buffer.getvalue())


def copy_files(source: PathLike, target: PathLike) -> None:
  """Copies the files of a folder that the target does not have with this content.

  `config.json` is copied last, so that a folder with it is complete.
  """
  files = (path for path in epath.Path(source).iterdir() if not path.is_dir())
  for file in sorted(files, key=lambda path: (path.name == COPIED_LAST, path.name)):
    content, copy = file.read_bytes(), epath.Path(target) / file.name
    if not copy.exists() or copy.read_bytes() != content:
      write_bytes(copy, content)


@contextlib.contextmanager
def new_folder(folder: PathLike) -> Iterator[pathlib.Path]:
  """Yields an empty local folder whose files become those of `folder` at the end.

  A new folder appears whole. In an existing one, the files of an earlier call are
  replaced: only those that its manifest lists. After an error the folder is
  as it was.

  Args:
    folder: local or in a bucket; absent, empty, or written by an earlier call.

  Raises:
    errors.InputError: it holds other files, or cannot be written to.
  """
  target = epath.Path(folder if is_remote(folder) else os.path.realpath(folder))
  check_owned(target)
  inside = not is_remote(target) and target.exists()
  with contextlib.ExitStack() as stack:
    with disk.reporting(target, making=True):
      places = []
      if not is_remote(target):
        # A call that was killed at its end left its folder beside a whole one.
        places = [target, target.parent] if inside else [target.parent]
        places[0].mkdir(parents=True, exist_ok=True)
      outer = stack.enter_context(staging.temporary_folder(f".{target.name}-", places))
    # A temporary folder can be read by its owner alone.
    new = outer / target.name
    with disk.reporting(target):
      new.mkdir()
      yield new
      sizes = {name: (new / name).stat().st_size for name in _files(new)}
      if inside or is_remote(target):
        _replace_files(target, new, sizes)
      else:
        write_json(new / MANIFEST, {"files": sizes})
        new.rename(target)


def claim_folder(
  folder: PathLike, names: Iterable[str], *, adopt: bool = False
) -> None:
  """Marks a folder that several calls fill and in which nothing is deleted.

  Args:
    folder: local or in a bucket; absent, empty, or claimed by an earlier call.
    names: the files and folders that the command writes there.
    adopt: accept a folder without a manifest that holds nothing but `names`.

  Raises:
    errors.InputError: it holds other files, or cannot be written to.
  """
  target = epath.Path(folder)
  with disk.reporting(target):
    present = [path.name for path in target.iterdir()] if target.exists() else []
    names = {*names, MANIFEST}
    claimed = MANIFEST in present and "names" in read_json(target / MANIFEST)
    if present and not (claimed or adopt):
      names = set()
    _refuse(target, [name for name in present if name not in names])
    write_json(target / MANIFEST, {"names": sorted(names - {MANIFEST})})


def check_owned(folder: PathLike) -> None:
  """Raises errors.InputError if a folder holds files that its manifest does not list.

  A file whose size differs from the listed one counts as not listed.
  """
  target = epath.Path(folder)
  if target.exists() and not target.is_dir():
    raise errors.InputError(f"{target} is a file", "a folder", "name another one")
  sizes = _manifest(target)
  _refuse(
    target,
    [
      name
      for name in _files(target)
      if name != MANIFEST
      and sizes.get(name, -1) not in (None, (target / name).stat().length)
    ],
  )


def is_whole(folder: PathLike) -> bool:
  """Whether a folder has all files of its manifest, as `new_folder` wrote them."""
  sizes, present = _manifest(epath.Path(folder)), {*_files(folder)}
  return all(
    name in present and size == (epath.Path(folder) / name).stat().length
    for name, size in sizes.items()
  )


def _refuse(folder: epath.Path, names: list[str]) -> None:
  names = sorted(name for name in names if not name.endswith(SUFFIX))
  if names:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise errors.InputError(
      f"{folder} holds files that this command did not write:"
      f" {', '.join(names[:3])}{more}",
      "a new or empty folder, or one that it wrote",
      "name another folder, or move these files",
    )


def _manifest(folder: epath.Path) -> dict[str, int | None]:
  """File -> its size, None for any, as the folder's manifest lists them."""
  path = folder / MANIFEST
  return read_json(path).get("files", {}) if path.exists() else {}


def _files(folder: PathLike) -> list[str]:
  """Names of all files below a folder, except what an interrupted call left there."""
  folder, names = epath.Path(folder), []
  if not folder.exists():
    return names
  for path in sorted(folder.iterdir()):
    if path.is_dir() and not os.path.islink(path):
      below = [] if path.name.endswith(SUFFIX) else _files(path)
      names += [f"{path.name}/{name}" for name in below]
    else:
      names.append(path.name)
  return names


def _replace_files(
  target: epath.Path, new: pathlib.Path, sizes: Mapping[str, int]
) -> None:
  """Moves files into a folder that exists, and deletes those of the earlier call."""
  check_owned(target)
  old = _manifest(target)
  # Interrupted from here on, the folder is still known as this command's.
  write_json(target / MANIFEST, {"files": dict.fromkeys([*old, *sizes])})
  for name in [name for name in old if name not in sizes]:
    (target / name).unlink(missing_ok=True)
  for name in sizes:
    if is_remote(target):
      write_bytes(target / name, (new / name).read_bytes())
    else:
      (target / name).parent.mkdir(parents=True, exist_ok=True)
      os.replace(new / name, target / name)
  for parent in sorted({os.path.dirname(name) for name in old} - {""})[::-1]:
    with contextlib.suppress(OSError):
      os.rmdir(target / parent)
  write_json(target / MANIFEST, {"files": dict(sizes)})
