"""The files of a CLIP: located in a folder or on the hub, read into parameters.

  name --> folder with config.json, tokenizer, preprocessor_config.json and weights
  model.safetensors (PyTorch or Flax) | shards with an index | flax_model.msgpack
     --names and axes--> the tree of FlaxCLIPModel, float32, complete and fitting

PyTorch's names are Flax's with `weight` for kernel, scale and embedding; a linear
kernel is transposed, a convolution's goes from [out in h w] to [h w in out].
"""

import contextlib
import json
import pathlib
from typing import Any

from flax import serialization, traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.encoders import hub

CONFIG = "config.json"
PIXELS = "preprocessor_config.json"
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "flax_model.msgpack")


def resolve(name: str) -> pathlib.Path:
  """Returns the folder that holds a CLIP; an id on the hub is downloaded once.

  Raises:
    errors.InputError: no such folder, and no such id that can be reached.
  """
  folder = _local(name)
  if folder is not None:
    return folder
  with _hub_errors(name):
    cached = hub.cached(name, (CONFIG,))
    if cached is not None and _is_whole(cached):
      return cached
    present = hub.files(name)
    weights = [file for file in WEIGHTS if file in present][:1]
    if weights == [WEIGHTS[1]]:
      weights.append("model-*.safetensors")
    return hub.download(name, ["*.json", "merges.txt", *weights])


def find_config(name: str) -> pathlib.Path:
  """Returns config.json alone of a CLIP, from the hub if need be; see `resolve`."""
  folder = _local(name)
  if folder is not None:
    return folder / CONFIG
  with _hub_errors(name):
    cached = hub.cached(name, (CONFIG,))
    return cached / CONFIG if cached else hub.download_file(name, CONFIG)


def read_config(path: pathlib.Path) -> artifacts.Json:
  """Reads config.json.

  Raises:
    errors.InputError: not JSON, or of another kind of model.
  """
  config = _read_json(path)
  kind = config.get("model_type")
  if kind != "clip":
    raise errors.InputError(
      f"{path} describes a model of type {kind!r}",
      "'clip': text and vision model together",
      "name the folder that CLIPModel.save_pretrained wrote",
    )
  return config


def check(folder: pathlib.Path) -> None:
  """Raises InputError unless a folder has a CLIP's configuration and both its readers.

  Weights are looked for when they are read.
  """
  read_config(folder / CONFIG)
  if not _has_tokenizer(folder):
    raise errors.InputError(
      f"no tokenizer in {folder}",
      " or ".join(" and ".join(files) for files in TOKENIZERS),
      "copy the tokenizer of the CLIP that it was trained from into it",
    )
  if not (folder / PIXELS).is_file():
    raise errors.InputError(
      f"no {PIXELS} in {folder}",
      "the size, mean and standard deviation of its images",
      "copy the file of the CLIP that it was trained from into it",
    )
  # Not all JSON: a folder may hold other files.
  for pattern in (PIXELS, "*token*.json", "vocab.json"):
    for file in sorted(folder.glob(pattern)):
      _read_json(file)


def read_params(folder: pathlib.Path, shapes: types.Params) -> types.Params:
  """Reads the weights of a folder as a tree of float32 arrays of these shapes.

  Raises:
    errors.InputError: no weights in a readable form, or a weight that is absent, left
      over or of the wrong shape.
  """
  stored = _read_weights(folder)
  params = {}
  flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(shapes)
  for path, leaf in flat.items():
    array = _take(stored, path)
    if array is None or array.shape != leaf.shape:
      problem = "no weight" if array is None else f"weight of shape {array.shape}"
      raise errors.InputError(
        f"{problem} for {'.'.join(path)} in {folder}",
        f"one of shape {leaf.shape}, as config.json asks for",
        "download or copy the folder again, weights and config.json together",
      )
    params[path] = jnp.asarray(array, jnp.float32)
  # Old PyTorch files carry the constant table 0, 1, 2, ... as a buffer.
  left = sorted(
    name
    for name in stored
    if name.startswith(("text_model.", "vision_model."))
    and not name.endswith(".position_ids")
  )
  if left:
    raise errors.InputError(
      f"{len(left)} weights in {folder} have no place, {left[0]} first",
      "only those of the model that config.json describes",
      "download or copy the folder again, weights and config.json together",
    )
  return traverse_util.unflatten_dict(params)


def _take(stored: artifacts.Json, path: tuple[str, ...]) -> Any:
  """Removes and returns the array of a Flax path, with Flax's axes."""
  name = ".".join(path)
  if name in stored:
    return stored.pop(name)
  if path[-1] not in ("kernel", "scale", "embedding"):
    return None
  array = stored.pop(".".join((*path[:-1], "weight")), None)
  if array is None or path[-1] != "kernel":
    return array
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _read_weights(folder: pathlib.Path) -> artifacts.Json:
  """Reads all arrays of the first form of weights that is there, by dotted name."""
  whole, index, msgpack = (folder / name for name in WEIGHTS)
  if whole.is_file():
    return _read_safetensors(whole)
  if index.is_file():
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    arrays: artifacts.Json = {}
    for shard in sorted(set(shards)):
      arrays |= _read_safetensors(folder / shard)
    return arrays
  if msgpack.is_file():
    try:
      tree = serialization.msgpack_restore(msgpack.read_bytes())
    except ValueError as error:
      raise _damaged(msgpack) from error
    return traverse_util.flatten_dict(tree, sep=".")
  raise errors.InputError(
    f"no weights in {folder}",
    f"one of {', '.join(WEIGHTS)}",
    "save pytorch_model.bin again with save_pretrained(safe_serialization=True)",
  )


def _read_safetensors(path: pathlib.Path) -> artifacts.Json:
  """Reads one safetensors file, bfloat16 included."""
  import safetensors
  from safetensors import flax as safetensors_flax

  try:
    # On the host: a float16 file is widened before anything goes to a device.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
      arrays = safetensors_flax.load_file(path)
  except (safetensors.SafetensorError, FileNotFoundError) as error:
    raise _damaged(path) from error
  return {name: np.asarray(array) for name, array in arrays.items()}


def _damaged(path: pathlib.Path) -> errors.InputError:
  return errors.InputError(
    f"{path} is absent or cannot be read to its end",
    "a whole file of weights",
    "download or copy it again",
  )


def _read_json(path: pathlib.Path) -> artifacts.Json:
  """Reads a JSON file that holds an object."""
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise _damaged(path) from error
  if not isinstance(content, dict):
    raise _damaged(path)
  return content


def _local(name: str) -> pathlib.Path | None:
  """Returns the folder of this name, None for what may be an id on the hub."""
  folder = pathlib.Path(name).expanduser()
  if (folder / CONFIG).is_file():
    return folder
  if folder.is_dir() or not hub.is_id(name):
    raise errors.InputError(
      f"no CLIP in {name!r}",
      "a folder with config.json, or an id such as 'openai/clip-vit-large-patch14'",
      "train a stand-in with `prepare --standin`, or name another folder",
    )
  return None


def _has_tokenizer(folder: pathlib.Path) -> bool:
  return any(all((folder / file).is_file() for file in form) for form in TOKENIZERS)


def _is_whole(folder: pathlib.Path) -> bool:
  """Says whether a copy that the hub's client made has all that `load` reads."""
  whole, index, msgpack = (folder / name for name in WEIGHTS)
  present = whole.is_file() or msgpack.is_file()
  if index.is_file():
    shards = set(_read_json(index)["weight_map"].values())
    present = present or all((folder / shard).is_file() for shard in shards)
  return present and (folder / PIXELS).is_file() and _has_tokenizer(folder)


def _hub_errors(name: str) -> contextlib.AbstractContextManager[None]:
  return hub.errors_of(
    repr(name),
    "a folder with config.json, or an id that the hub serves",
    "check network and id, name a folder, or set config.conditioning.encoder=standin",
  )
