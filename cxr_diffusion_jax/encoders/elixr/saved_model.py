"""The SavedModels of CXR Foundation: located, identified, loaded and run in batches.

  FOLDER/elixr-c-v2-pooled/{saved_model.pb,variables/...}   images -> feature maps
  FOLDER/pax-elixr-b-text/{saved_model.pb,variables/...}    maps or texts -> the rest

The only file that knows TensorFlow, which is imported when a model is loaded.
"""

from collections.abc import Callable, Mapping, Sequence
import hashlib
import json
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import hub
from cxr_diffusion_jax.parallel import batches

HUB_ID = "google/cxr-foundation"
IMAGE_MODEL, TEXT_MODEL = "elixr-c-v2-pooled", "pax-elixr-b-text"

# Inputs by name, each [n ...], to outputs by name, each [n ...].
ModelFn = Callable[..., Mapping[str, np.ndarray]]

_FIX = (
  f"accept the HAI-DEF terms at https://huggingface.co/{HUB_ID}, run `huggingface-cli"
  f" login` and use {HUB_ID!r}, or name a folder that has both"
)


def resolve(name: str | os.PathLike) -> pathlib.Path:
  """Returns the folder of the models; raises InputError if neither is there."""
  text = os.fspath(name)
  folder = hub.resolve(
    text,
    "ELIXR",
    "a folder with ELIXR's models, or an id that the hub gives you",
    _FIX,
    local=lambda folder: folder if folder.is_dir() else None,
    fetch=lambda: hub.download(text, [f"{IMAGE_MODEL}/*", f"{TEXT_MODEL}/*"]),
  )
  if not any(is_there(folder, model) for model in (IMAGE_MODEL, TEXT_MODEL)):
    raise _no_model(folder, f"{IMAGE_MODEL} or {TEXT_MODEL}")
  return folder


def is_there(folder: pathlib.Path, model: str) -> bool:
  return (folder / model / "saved_model.pb").is_file()


def find(folder: pathlib.Path, model: str) -> pathlib.Path:
  """Returns a model's own folder; raises InputError if it is missing."""
  if not is_there(folder, model):
    raise _no_model(folder, model)
  return folder / model


def fingerprint(path: pathlib.Path) -> str:
  """12 hexadecimal digits of a SavedModel that a copy keeps.

  They cover the program's content, and names and sizes of the weights' files: gigabytes
  are not read.
  """
  with open(path / "saved_model.pb", "rb") as file:
    digest = hashlib.file_digest(file, "sha256")
  sizes = sorted(
    [one.relative_to(path).as_posix(), one.stat().st_size]
    for folder in ("variables", "assets")
    for one in (path / folder).rglob("*")
    if one.is_file()
  )
  digest.update(json.dumps(sizes).encode())
  return digest.hexdigest()[:12]


def load_model(
  path: pathlib.Path, inputs: Sequence[str], outputs: Mapping[str, tuple[int, ...]]
) -> ModelFn:
  """Loads a SavedModel as a function of n >= 1 rows.

  Args:
    path: of the SavedModel.
    inputs: names that its signature must have.
    outputs: the shape of one row of every output that it must have.

  Raises:
    InputError: it cannot be loaded, or lacks an input or an output.
  """
  import tensorflow as tf

  signature = _read_signature(path)
  specs = signature.structured_input_signature[1]
  if set(specs) != set(inputs):
    raise _not_elixr(path, f"the inputs {', '.join(sorted(specs))}", sorted(inputs))
  present = signature.structured_outputs
  if set(outputs) - set(present):
    got = f"the outputs {', '.join(sorted(present))}"
    raise _not_elixr(path, got, sorted(outputs))
  shape = specs[inputs[0]].shape
  size = shape[0] if shape.rank else None

  def call(**values: np.ndarray) -> dict[str, np.ndarray]:
    nonlocal size
    num_rows = len(values[inputs[0]])

    def run(rows: np.ndarray) -> dict[str, np.ndarray]:
      given = {name: tf.constant(value[rows]) for name, value in values.items()}
      results = {name: value.numpy() for name, value in signature(**given).items()}
      for name, row in outputs.items():
        if results[name].shape != (len(rows), *row):
          raise _not_elixr(path, f"{name} {list(results[name].shape)}", ["n", *row])
      return {name: results[name] for name in outputs}

    try:
      return batches.in_batches(run, num_rows, size or num_rows)
    except tf.errors.InvalidArgumentError:
      # Programs exported for one row may not say so in their signature.
      if size or num_rows == 1:
        raise
      logging.warning("%s is given one row at a time: it refuses more", path.name)
      size = 1
    return batches.in_batches(run, num_rows, size)

  return call


def to_example(png: bytes) -> bytes:
  """Packs a PNG as ELIXR-C takes it: as a serialised tf.train.Example."""
  import tensorflow as tf

  def feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

  features = {"image/encoded": feature(png), "image/format": feature(b"png")}
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString()


def _no_model(folder: pathlib.Path, model: str) -> errors.InputError:
  expected, fix = "ELIXR's SavedModels", _FIX
  if folder.name in (IMAGE_MODEL, TEXT_MODEL):
    expected = "the folder above, which has both models"
    fix = f"use {folder.parent}"
  return errors.InputError(f"no {model}/saved_model.pb in {folder}", expected, fix)


def _read_signature(path: pathlib.Path) -> Any:
  """Loads a SavedModel and returns its function `serving_default`."""
  import tensorflow as tf

  has_text_ops = _register_text_ops()
  try:
    signatures = tf.saved_model.load(os.fspath(path)).signatures
  except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
    if "Op type not registered" in str(error) and not has_text_ops:
      raise errors.InputError(
        f"{path} uses operations that TensorFlow alone does not have",
        "tensorflow-text, of TensorFlow's own version",
        f"pip install 'tensorflow-text=={'.'.join(tf.__version__.split('.')[:2])}.*'",
      ) from error
    raise errors.InputError(
      f"{path} cannot be loaded: {error}",
      "a whole SavedModel",
      "download or copy the folder again",
    ) from error
  if "serving_default" not in signatures:
    raise _not_elixr(
      path, f"signatures {', '.join(sorted(signatures)) or 'none'}", ["serving_default"]
    )
  return signatures["serving_default"]


def _register_text_ops() -> bool:
  """Imports tensorflow_text, which registers operations, if it is installed."""
  import tensorflow as tf

  try:
    import tensorflow_text  # noqa: F401  # pyright: ignore[reportMissingImports]
  except ModuleNotFoundError:
    return False
  except (ImportError, tf.errors.NotFoundError) as error:
    raise errors.InputError(
      f"tensorflow-text does not work with TensorFlow {tf.__version__}: {error}",
      "the same version of both",
      "pip install 'tensorflow-text==X.Y.*' for TensorFlow X.Y",
    ) from error
  return True


def _not_elixr(
  path: pathlib.Path, got: str, expected: Sequence[object]
) -> errors.InputError:
  return errors.InputError(
    f"{path} has {got}",
    ", ".join(map(str, expected)),
    f"use {path.name} of {HUB_ID}",
  )
