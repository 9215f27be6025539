"""A model's folder in diffusers' layout: config.json beside weights in safetensors.

  FOLDER or PIPELINE/unet --locate--> config.json --read_config--> checked options
  diffusion_pytorch_model.safetensors | shards with an index | a 16-bit variant of them
     --read_shapes, read--> {name: array}

Only headers are read for shapes, so that a wrong folder is refused early.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from cxr_diffusion_jax import artifacts, checksums, disk, errors

CONFIG = "config.json"
STEM = "diffusion_pytorch_model"
WHOLE = f"{STEM}.safetensors"
# First what is stored in full. `bf16` and `fp16` are widened; other variants, such as
# `non_ema`, are other weights, and are never taken.
FORMS = (
  WHOLE,
  f"{STEM}.safetensors.index.json",
  f"{STEM}.bf16.safetensors",
  f"{STEM}.safetensors.index.bf16.json",
  f"{STEM}.fp16.safetensors",
  f"{STEM}.safetensors.index.fp16.json",
)
# Formats that run code when they are read, or that need PyTorch.
UNSAFE = (".bin", ".ckpt", ".pt", ".pth")


def locate(folder: str | os.PathLike, part: str) -> pathlib.Path:
  """Returns the folder that holds config.json: this one, or a pipeline's part of it.

  `part` is the name of the model in a pipeline: 'unet' or 'vae'.

  Raises:
    errors.InputError: neither is there.
  """
  folder = pathlib.Path(folder).expanduser()
  for candidate in (folder, folder / part):
    if (candidate / CONFIG).is_file():
      return candidate
  names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
  unsafe = [name for name in names if name.endswith(UNSAFE)]
  if unsafe:
    raise _unsafe(folder / unsafe[0])
  raise errors.InputError(
    f"no {CONFIG} in {folder} or {folder / part}"
    + (f", which holds {', '.join(names[:5])}" if names else ""),
    f"a folder that diffusers' save_pretrained wrote, of a {part} or of a pipeline",
    "name that folder",
  )


def read_config(folder: pathlib.Path, class_name: str) -> artifacts.Json:
  """Reads the options in config.json, without those that only describe the file.

  Raises:
    errors.InputError: no JSON object, or of another class of models.
  """
  checksums.check_model(folder, (CONFIG,))
  config = read_json(folder / CONFIG)
  stored = config.get("_class_name")
  if stored != class_name:
    raise errors.InputError(
      f"{folder / CONFIG} describes a model of class {stored!r}",
      repr(class_name),
      "name the folder of such a model",
    )
  return {key: value for key, value in config.items() if not key.startswith("_")}


def read_shapes(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
  """Reads names and shapes of all arrays, from the headers alone.

  Raises:
    errors.InputError: no weights in safetensors, or a file that is cut short.
  """
  return {
    name: tuple(file.get_slice(name).get_shape())
    for file, name in _arrays(weight_files(folder))
  }


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads all arrays by name, as float32, on the host; raises as `read_shapes`."""
  checksums.check_model(folder)
  return read_arrays(weight_files(folder))


def read_arrays(paths: Iterable[pathlib.Path]) -> dict[str, np.ndarray]:
  """Reads all arrays of safetensors files; see `read`."""
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    return {
      name: np.asarray(file.get_tensor(name)).astype(np.float32, copy=False)
      for file, name in _arrays(paths)
    }


def write(
  folder: pathlib.Path, config: artifacts.JsonMapping, arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes a model; what is read from the folder is the old one or the new one.

  The folder is created where it is missing, and may hold a model saved before. `config`
  is all of config.json; arrays have PyTorch's names and axes.

  Raises:
    errors.InputError: the folder holds weights in another form, which readers would
      take first, or cannot be written to.
  """
  from safetensors import numpy as safetensors_numpy

  with disk.reporting(folder):
    folder.mkdir(parents=True, exist_ok=True)
    other = sorted(
      path.name for path in folder.glob(f"{STEM}*") if path.name not in (WHOLE, _PART)
    )
    if other:
      raise errors.InputError(
        f"{folder} holds {other[0]} already", "a new folder", "name another one"
      )
    part = folder / _PART
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # PyTorch's readers ask for this entry.
    safetensors_numpy.save_file(whole, part, metadata={"format": "pt"})
    with open(part, "rb") as file:
      os.fsync(file.fileno())
    (folder / checksums.FILE).unlink(missing_ok=True)
    os.replace(part, folder / WHOLE)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    artifacts.write_text(folder / CONFIG, text)
    # The library makes a file that its owner alone can read.
    shutil.copymode(folder / CONFIG, folder / WHOLE)
    checksums.seal(folder, (WHOLE, CONFIG))


_PART = f"{WHOLE}.part"


def _arrays(paths: Iterable[pathlib.Path]) -> Iterator[tuple[Any, str]]:
  """Yields each array as an open file and a name."""
  import safetensors

  for path in paths:
    try:
      with safetensors.safe_open(path, framework="flax") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
          yield file, name
    except (safetensors.SafetensorError, OSError) as error:
      raise damaged(path) from error


def weight_files(
  folder: pathlib.Path, forms: Sequence[str] = FORMS
) -> list[pathlib.Path]:
  """The files of the first form that is there: one, or the shards of an index.

  Raises:
    errors.InputError: no weights in safetensors, or a damaged index.
  """
  for form in forms:
    path = folder / form
    if path.is_file() and path.suffix == ".safetensors":
      return [path]
    if path.is_file():
      shards = read_json(path).get("weight_map")
      if not isinstance(shards, dict) or not shards:
        raise damaged(path)
      # A name alone: an index must not point outside of its folder.
      return sorted({folder / pathlib.Path(str(name)).name for name in shards.values()})
  present = sorted(path for path in folder.iterdir() if path.is_file())
  for path in present:
    if path.name.endswith(UNSAFE):
      raise _unsafe(path)
  raise errors.InputError(
    f"no weights in {folder}",
    f"{forms[0]}, shards of it with their index, or a 16-bit variant",
    "download or copy the folder again, weights and config.json together",
  )


def _unsafe(path: pathlib.Path) -> errors.InputError:
  if path.suffix == ".ckpt":
    convert = f"StableDiffusionPipeline.from_single_file('{path}')"
    name = "StableDiffusionPipeline"
  else:
    name = "AutoModel"
    convert = f"AutoModel.from_pretrained('{path.parent}', use_safetensors=False)"
  return errors.InputError(
    f"{path} is a pickle, which runs code when it is read",
    "weights in safetensors",
    "convert it where PyTorch and diffusers are installed and its source is trusted:"
    f' python -c "from diffusers import {name};'
    f" {convert}.save_pretrained('NEW_FOLDER')\"",
  )


def read_json(path: pathlib.Path) -> artifacts.Json:
  """Reads a JSON file that holds an object.

  Raises:
    errors.InputError: it does not, or it is the config.json of a model that is too
      large to be real, which would take all time and memory.
  """
  try:
    content = json.loads(path.read_bytes())
  except (OSError, ValueError, RecursionError) as error:
    raise damaged(path) from error
  if not isinstance(content, dict):
    raise damaged(path)
  if path.name == CONFIG:
    _check_sizes(path, content)
  return content


# Far more than any published model has. The largest number is a vocabulary.
_MOST_LAYERS, _MOST_LEVELS, _LARGEST = 200, 10, 10**6


def _check_sizes(path: pathlib.Path, config: artifacts.JsonMapping) -> None:
  """Raises errors.InputError for numbers and lists beyond the limits."""
  for key, value in config.items():
    if isinstance(value, dict):
      _check_sizes(path, value)
      continue
    entries = value if isinstance(value, list) else [value]
    most = _MOST_LAYERS if "layers" in key else _LARGEST
    numbers = [entry for entry in entries if isinstance(entry, int | float)]
    if "block" in key and len(entries) > _MOST_LEVELS:
      raise errors.InputError(
        f"{path} has {len(entries):,} levels in {key}", f"at most {_MOST_LEVELS}"
      )
    if numbers and not max(map(abs, numbers)) <= most:
      raise errors.InputError(
        f"{path} has {key}={max(numbers, key=abs):,}", f"at most {most:,}"
      )


def damaged(path: pathlib.Path) -> errors.InputError:
  """The error of a file that is absent or incomplete."""
  return errors.InputError(
    f"{path} is absent or cannot be read to its end",
    "a whole file",
    "download or copy it again",
  )
