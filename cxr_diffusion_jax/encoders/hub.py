"""Locates models by name: a local folder, or an id on the Hugging Face hub.

An id is downloaded once; files in the hub's cache are used without the network.
"""

from collections.abc import Callable, Sequence
import pathlib

from cxr_diffusion_jax import errors


def is_id(name: str) -> bool:
  """Whether a name may be an id on the hub, such as 'openai/clip-vit-base-patch32'."""
  return not name.startswith((".", "/", "~")) and name.count("/") == 1


def cached(name: str, files: Sequence[str]) -> pathlib.Path | None:
  """Returns the folder in the hub's cache, if it holds all of the files."""
  import huggingface_hub

  paths = [huggingface_hub.try_to_load_from_cache(name, file) for file in files]
  present = [path for path in paths if isinstance(path, str)]
  return pathlib.Path(present[0]).parent if len(present) == len(files) else None


def download(name: str, patterns: Sequence[str]) -> pathlib.Path:
  """The folder of a local copy of all files that match the patterns.

  Raises:
    OSError, ValueError: the hub cannot be reached, or has no such id.
  """
  import huggingface_hub

  folder = huggingface_hub.snapshot_download(name, allow_patterns=list(patterns))
  return pathlib.Path(folder)


def download_file(name: str, file: str) -> pathlib.Path:
  """A local copy of one file; raises as `download` does."""
  import huggingface_hub

  return pathlib.Path(huggingface_hub.hf_hub_download(name, file))


def files(name: str) -> set[str]:
  """Names of all files of an id; raises as `download` does."""
  import huggingface_hub

  return set(huggingface_hub.list_repo_files(name))


def resolve(
  name: str,
  what: str,
  expected: str,
  fix: str,
  *,
  local: Callable[[pathlib.Path], pathlib.Path | None],
  fetch: Callable[[], pathlib.Path],
) -> pathlib.Path:
  """Returns the path of a model that is given by a folder or by an id on the hub.

  Args:
    name: as the user gave it.
    what: the kind of model, or the config key, for messages.
    expected: the content that a folder or an id should have, for messages.
    fix: what the user can do.
    local: folder -> the model's path, None where the folder is none.
    fetch: returns a local copy of the id `name`.

  Raises:
    errors.InputError: no such folder, and no such id that can be reached.
  """
  folder = pathlib.Path(name).expanduser()
  path = local(folder)
  if path is not None:
    return path
  if folder.is_dir() or not is_id(name):
    raise errors.InputError(f"no {what} in {name!r}", expected, fix)
  try:
    return fetch()
  except (OSError, ValueError) as error:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    raise errors.InputError(
      f"{what}: {name!r} is no folder and could not be downloaded ({reason})",
      expected,
      f"check network and id; {fix}",
    ) from error
