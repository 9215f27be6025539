"""A user's network as ONNX, run by onnxruntime.

images uint8 [b h w 1] --`user_network`--> [b c size size] --ONNX--> output [b ...]
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.encoders.extractors import user_network
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor

SUFFIX = ".onnx"

# For models that take any number of images at a time.
_BATCH_SIZE = 16

_EMBEDDING = '{"size": 224, "mean": 0.5, "std": 0.25}'


class Network(NamedTuple):
  """An open model.

  Attributes:
    shape: of the output for one batch.
    run_fn: images uint8 [b h w 1] -> output.
  """

  batch_size: int
  shape: tuple[int, ...]
  run_fn: Callable[[types.Array], np.ndarray]


def open_network(
  described: user_network.Description,
  expected: str,
  check_fn: Callable[[tuple[int, ...]], bool],
) -> Network:
  """Opens a model and tries it on a black image.

  Args:
    expected: the model's output in words, for errors.
    check_fn: shape of the output of one image, without its batch -> whether it fits.

  Raises:
    errors.InputError: onnxruntime is not installed, or the model does not fit.
  """
  path = described.network
  try:
    import onnxruntime  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise errors.InputError(
      f"{path} needs onnxruntime, which is not installed", fix="pip install onnxruntime"
    ) from error
  try:
    # Other providers need libraries of their vendors.
    available = set(onnxruntime.get_available_providers())
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(
      str(path), providers=[name for name in providers if name in available]
    )
    (taken,) = session.get_inputs()
    batch, channels, *_ = taken.shape
    described.check_channels(channels)
    batch_size = batch if isinstance(batch, int) else _BATCH_SIZE

    def run_fn(images: types.Array) -> np.ndarray:
      x = np.moveaxis(np.asarray(described.normalised(images, channels)), -1, 1)
      return np.asarray(session.run(None, {taken.name: x})[0])

    # A model may leave its sizes open: a black image shows whether they fit.
    size = described.size
    shape = run_fn(np.zeros((batch_size, size, size, 1), np.uint8)).shape
    if shape[:1] != (batch_size,) or not check_fn(shape[1:]):
      raise ValueError(f"output {shape}")
  except Exception as error:  # onnxruntime's have no class in common
    raise errors.InputError(
      f"{path} does not fit {described.path}: {error}",
      f"one input [b c size size] of float32, c 1 or 3, and {expected}",
    ) from error
  return Network(batch_size, shape, run_fn)


def as_extractor(
  described: user_network.Description,
  network: Network,
  layer: str,
  *,
  width: int = 0,
  post_fn: Callable[[np.ndarray], np.ndarray] = lambda output: output,
) -> Extractor:
  """The model as an extractor of `post_fn` of its output: [b width]."""
  return Extractor(
    name=f"onnx-{described.network.stem}",
    layer=layer,
    standin=False,
    fingerprint=described.fingerprint,
    width=width or network.shape[-1],
    batch_size=network.batch_size,
    apply_fn=lambda params, images: post_fn(network.run_fn(images)),
  )


def open_embedding(location: str) -> Extractor:
  """Opens NAME.onnx, a network that maps an image to a vector, of unit length here.

  Raises:
    errors.InputError: no such files, no onnxruntime, or a model that does not fit.
  """
  described = user_network.read(location, (SUFFIX,), (), _EMBEDDING)
  network = open_network(described, "a vector an image", lambda one: len(one) == 1)

  def unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(np.float32).tiny)

  return as_extractor(described, network, "embedding, unit length", post_fn=unit)
