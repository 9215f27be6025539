"""Weights of PyTorch networks, from safetensors that the user converts, for Flax.

FILE.safetensors {torch's name: array} --names, axes, shapes checked--> parameters

PyTorch's own files are pickles, which run code when they are read: the user converts
them once, where PyTorch is installed and their source is trusted (`CONVERT`). A kernel
goes from [out in h w] to [h w in out], and a norm's running_mean and running_var are
the parameters `mean` and `var` of `models.frozen_norm`.
"""

from collections.abc import Callable, Sequence
import pathlib
from types import MappingProxyType
from typing import Any

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types

# Conversion scripts by extractor. torchxrayvision publishes whole pickled models, which
# only it can read.
CONVERT = MappingProxyType(
  {
    "inception": """\
import torch, safetensors.torch
weights = torch.load("weights-inception-2015-12-05-6726825d.pth", weights_only=True)
safetensors.torch.save_file(weights, "inception.safetensors")
""",
    "densenet": """\
import torchxrayvision as xrv, safetensors.torch
weights = xrv.models.DenseNet(weights="densenet121-res224-all").state_dict()
safetensors.torch.save_file(weights, "densenet.safetensors")
""",
  }
)

# Other content of such files: counts of batches; Inception's classes of photographs;
# thresholds that torchxrayvision scales its outputs with.
_UNUSED = ("num_batches_tracked", "fc.weight", "fc.bias", "op_threshs")

_LEAVES = MappingProxyType(
  {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
)

# Names that an error lists.
_LISTED = 3


def read(
  name: str, path: pathlib.Path, shapes_fn: Callable[[], types.Params]
) -> types.Params:
  """Reads the weights of a network.

  Args:
    name: of the extractor, a key of `CONVERT`.
    path: of the file.
    shapes_fn: returns the tree of shapes of the result; called if there is a file.

  Returns:
    Tree of float32 arrays.

  Raises:
    errors.InputError: no file, another format, or weights that are absent, unknown or
      of other shapes.
  """
  stored = _read_file(name, path)
  params, wrong = {}, []
  shapes: Any = traverse_util.flatten_dict(shapes_fn())
  for place, leaf in shapes.items():
    key = torch_name(place)
    array = stored.pop(key, None)
    if array is None:
      wrong.append(f"no {key}")
      continue
    # Which of PyTorch's axes each axis of the result is.
    axes = (2, 3, 1, 0) if len(leaf.shape) == 4 else range(len(leaf.shape))[::-1]
    expected = tuple(leaf.shape[list(axes).index(i)] for i in range(len(leaf.shape)))
    if array.shape != expected:
      wrong.append(f"{key} of {array.shape} in place of {expected}")
      continue
    params[place] = jnp.asarray(array.transpose(axes), jnp.float32)
  left = sorted(key for key in stored if not key.endswith(_UNUSED))
  wrong += [f"{key}, which has no place" for key in left]
  if wrong:
    raise errors.InputError(
      f"{path} has {_some(wrong)}", f"the weights of {name}", _fix(name)
    )
  return traverse_util.unflatten_dict(params)


def torch_name(place: Sequence[str]) -> str:
  """PyTorch's name of the parameter at this place of the tree."""
  *modules, leaf = place
  return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _read_file(name: str, path: pathlib.Path) -> dict[str, np.ndarray]:
  import safetensors
  from safetensors import numpy as safetensors_numpy

  if path.suffix != ".safetensors" or not path.is_file():
    what = "is no safetensors" if path.is_file() else "is absent"
    raise errors.InputError(f"{path} {what}", "a file in safetensors", _fix(name))
  try:
    return safetensors_numpy.load_file(path)
  except (safetensors.SafetensorError, KeyError) as error:
    raise errors.InputError(
      f"{path} cannot be read ({error})", "float32 weights in safetensors", _fix(name)
    ) from error


def _some(wrong: Sequence[str]) -> str:
  more = len(wrong) - _LISTED
  return "; ".join(wrong[:_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _fix(name: str) -> str:
  lines = " ; ".join(CONVERT[name].splitlines())
  return f"convert it where PyTorch is and its source is trusted: {lines}"
