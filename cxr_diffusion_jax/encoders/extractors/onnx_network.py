"""A user's classifier of findings as ONNX, with a JSON file that says how to use it.

images uint8 [b h w 1] --resize, antialiased--> [b 1 size size]
  --(x / 255 - mean) / std--> [b c size size], c 1 or 3 --ONNX--> scores [b m]

NAME.onnx is read with NAME.json next to it:
  {"findings": ["Effusion", "Mass", ""], "size": 224, "mean": 0.5, "std": [0.25]}
One finding an output, "" for outputs that are not used; mean and std are one number, or
one of each channel.
"""

from collections.abc import Callable
import hashlib
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor

# For models that take any number of images at a time.
_BATCH_SIZE = 16

_KEYS = ("findings", "size", "mean", "std")
_EXAMPLE = '{"findings": ["Effusion", "Mass"], "size": 224, "mean": 0.5, "std": 0.25}'


class _Use(NamedTuple):
  """What the JSON file says; mean and std are [1] or [c] float32."""

  findings: tuple[str, ...]
  size: int
  mean: np.ndarray
  std: np.ndarray


def open_classifier(location: str) -> tuple[Extractor, tuple[str, ...]]:
  """Opens NAME.onnx: an extractor of its m scores, and the findings that they are of.

  Raises:
    errors.InputError: no such files, onnxruntime is not installed, or the JSON file
      does not fit the model.
  """
  path = pathlib.Path(location).expanduser()
  if path.suffix != ".onnx" or not path.is_file():
    raise errors.InputError(f"{location}", "a file NAME.onnx that exists")
  described = path.with_suffix(".json")
  use = _read(described)
  batch_size, apply_fn = _open_model(path, use, described)
  facts = repr((extractor_lib.FORMAT, described.read_text())).encode()
  extractor = Extractor(
    name=f"onnx-{path.stem}",
    layer="scores",
    standin=False,
    fingerprint=hashlib.sha256(facts + path.read_bytes()).hexdigest()[:16],
    width=len(use.findings),
    batch_size=batch_size,
    apply_fn=apply_fn,
  )
  return extractor, use.findings


def _open_model(
  path: pathlib.Path, use: _Use, described: pathlib.Path
) -> tuple[int, Callable[[types.Params, types.Array], types.Array]]:
  """How many images the model takes at a time, and `Extractor.apply_fn`."""
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
    if channels not in (1, 3) or not {use.mean.size, use.std.size} <= {1, channels}:
      raise ValueError(
        f"images {taken.shape}, {use.mean.size} means, {use.std.size} std"
      )
    batch_size = batch if isinstance(batch, int) else _BATCH_SIZE

    def apply_fn(params, images):
      del params
      grey = jnp.asarray(images, jnp.float32)
      resized = np.asarray(extractor_lib.resize(grey, use.size, "linear")) / 255
      x = (np.repeat(resized, channels, axis=-1) - use.mean) / use.std
      return np.asarray(session.run(None, {taken.name: np.moveaxis(x, -1, 1)})[0])

    # A model may leave its sizes open: a black image shows whether they fit.
    black = np.zeros((batch_size, use.size, use.size, 1), np.uint8)
    shape, expected = apply_fn(None, black).shape, (batch_size, len(use.findings))
    if shape != expected:
      raise ValueError(f"scores {shape} and not {expected}")
  except Exception as error:  # onnxruntime's have no class in common
    raise errors.InputError(
      f"{path} does not fit {described}: {error}",
      "one input [b c size size] of float32, c 1 or 3, and one score a finding",
    ) from error
  return batch_size, apply_fn


def _read(path: pathlib.Path) -> _Use:
  """The JSON file."""
  values = artifacts.read_json(path)
  try:
    if sorted(values) != sorted(_KEYS):
      raise ValueError
    mean, std = (np.array(values[k], np.float32).reshape(-1) for k in ("mean", "std"))
    findings, size = values["findings"], values["size"]
    texts = isinstance(findings, list) and all(isinstance(x, str) for x in findings)
    if not (texts and any(findings) and isinstance(size, int) and size > 0):
      raise ValueError
    if not (np.isfinite(mean).all() and (std > 0).all() and mean.size and std.size):
      raise ValueError
  except (TypeError, ValueError) as error:
    raise errors.InputError(f"{path}: {str(values)[:200]}", _EXAMPLE) from error
  return _Use(tuple(findings), size, mean, std)
