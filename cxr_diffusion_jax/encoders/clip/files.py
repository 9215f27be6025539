"""The files of a CLIP: located in a folder or on the hub, read into parameters.

name --> folder with config.json, tokenizer, preprocessor_config.json and weights
weights --names and axes--> the tree of FlaxCLIPModel, float32, complete and fitting
"""

import pathlib

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.encoders import hub, weights
from cxr_diffusion_jax.interop import names
from cxr_diffusion_jax.interop.safetensors_folder import CONFIG, read_json

_EXAMPLE = "openai/clip-vit-large-patch14"

PIXELS = "preprocessor_config.json"
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))

_MODELS = ("text_model.", "vision_model.")
# Old PyTorch files carry the constant table 0, 1, 2, ... as a buffer.
_BUFFER = ".position_ids"


def resolve(name: str) -> pathlib.Path:
  """Returns the folder that holds a CLIP; an id on the hub is downloaded once.

  Raises:
    errors.InputError: no such folder, and no such id that can be reached.
  """

  def fetch() -> pathlib.Path:
    cached = hub.cached(name, (CONFIG,))
    if cached is not None and _is_whole(cached):
      return cached
    forms = weights.to_download(hub.files(name))
    return hub.download(name, ["*.json", "merges.txt", *forms])

  return weights.resolve(name, "CLIP", _EXAMPLE, fetch)


def find_config(name: str) -> pathlib.Path:
  """Returns config.json alone of a CLIP, from the hub if need be; see `resolve`."""
  return weights.find_config(name, "CLIP", _EXAMPLE)


def read_config(path: pathlib.Path) -> artifacts.Json:
  """Reads config.json.

  Raises:
    errors.InputError: not JSON, or of another kind of model.
  """
  config = read_json(path)
  kind = config.get("model_type")
  if kind != "clip":
    raise errors.InputError(
      f"{path} describes a model of type {kind!r}",
      "'clip': text and vision model together",
      "name the folder that CLIPModel.save_pretrained wrote",
    )
  return config


def check(folder: pathlib.Path) -> None:
  """Raises InputError unless a folder has a CLIP's configuration and its readers."""
  read_config(folder / CONFIG)
  if not weights.has_one_of(folder, TOKENIZERS):
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
      read_json(file)


def read_params(folder: pathlib.Path, shapes: types.Params) -> types.Params:
  """Reads the weights of a folder as a tree of float32 arrays of these shapes.

  Raises:
    errors.InputError: no weights in a readable form, or a weight that is missing,
      unknown or of the wrong shape.
  """
  stored = weights.read(folder)
  needed = names.shapes_by_name(shapes)
  stored = {
    name: array
    for name, array in stored.items()
    if name in needed or (name.startswith(_MODELS) and not name.endswith(_BUFFER))
  }
  fix = "download or copy the folder again, weights and config.json together"
  return names.fit(stored, shapes, str(folder), fix)


def _is_whole(folder: pathlib.Path) -> bool:
  """Says whether a copy that the hub's client made has all that `load` reads."""
  return (
    weights.are_whole(folder)
    and (folder / PIXELS).is_file()
    and weights.has_one_of(folder, TOKENIZERS)
  )
