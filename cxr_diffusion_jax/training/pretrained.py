"""A run that begins from a published UNet: what of its weights is taken, what is fresh.

  FOLDER --check--> fits config.model, or an error before any data are prepared
  fresh parameters --merge(taken)--> those of step 0

A layer is taken where all of its arrays fit, and a cross-attention as one: queries
learned for other keys are worth nothing. Between one channel and three, the first
layer's kernel is summed and the last one's averaged: what the old network does with
grey images. A run that goes on from a checkpoint does not need the folder.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging
from flax import traverse_util
import jax
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.interop import diffusers
from cxr_diffusion_jax.models.denoisers import unet as unet_lib

# What of a UNet its weights rely on; widths of context, input and output may differ.
_FIELDS = (
  "attention",
  "block_channels",
  "linear_projection",
  "norm_groups",
  "num_classes",
  "num_heads",
  "num_layers",
  "time_conditioning",
  "transformer_blocks",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
  """Where a run's first weights come from; nothing is read before `check` or `load`.

  Attributes:
    folder: diffusers' UNet2DConditionModel, or a pipeline with one.
    network: of the run.
  """

  folder: str
  network: unet_lib.UNet

  def check(self) -> None:
    """Reads the folder's configuration and the headers of its weights.

    Raises:
      errors.InputError: it is not there, is damaged, or is of another network than
        config.model describes.
    """
    theirs, _, place = diffusers.read_unet(self.folder)
    differing = {
      name: (getattr(self.network, name), getattr(theirs, name))
      for name in _FIELDS
      if _each_level(self.network, name) != _each_level(theirs, name)
    }
    if differing:
      told = (f"{name}={ours!r}" for name, (ours, _) in differing.items())
      wanted = (f"{name}={value!r}" for name, (_, value) in differing.items())
      raise errors.InputError(
        f"config.model.pretrained={place}, but config.model has {', '.join(told)}",
        f"{', '.join(wanted)}, as there",
        "set these keys of config.model, or name a folder of that network",
      )

  def load(self, shapes: types.Params) -> dict[tuple[str, ...], np.ndarray]:
    """Reads what fits, and tells what does.

    Args:
      shapes: the tree of the run's parameters, of anything with a shape.

    Returns:
      Float32 arrays by their paths in that tree.

    Raises:
      errors.InputError: as `check`.
    """
    self.check()
    _, params = diffusers.load_unet(self.folder)
    wanted = traverse_util.flatten_dict(shapes)
    taken = fitting(_adapted(params, wanted), wanted)
    self._tell(taken, wanted)
    return taken

  def _tell(self, taken: Mapping, wanted: Mapping) -> None:
    fresh = sorted({"/".join(_layer(path)) for path in wanted.keys() - taken.keys()})
    logging.info(
      "%d of %d arrays (%s of %s parameters) are those of %s; %s",
      len(taken),
      len(wanted),
      f"{sum(array.size for array in taken.values()):,}",
      f"{sum(int(np.prod(leaf.shape)) for leaf in wanted.values()):,}",
      self.folder,
      f"fresh are {', '.join(fresh)}" if fresh else "none is fresh",
    )


def read(section: Mapping[str, Any], network: Any) -> Pretrained | None:
  """Reads config.model.pretrained; None where it is not set.

  Raises:
    errors.InputError: the network is no UNet.
  """
  folder = section.get("pretrained", "")
  if not folder:
    return None
  if not isinstance(network, unet_lib.UNet):
    raise errors.InputError(
      f"config.model.pretrained={folder} with config.model.name={section.get('name')}",
      "config.model.name=unet, which alone has published weights",
    )
  return Pretrained(folder=str(folder), network=network)


def fitting(
  loaded: Mapping[tuple[str, ...], Any], wanted: Mapping[tuple[str, ...], Any]
) -> dict[tuple[str, ...], Any]:
  """Returns the arrays of all layers whose arrays are there and fit.

  Args:
    loaded: arrays by path.
    wanted: anything with a shape, by path.
  """
  broken = {
    _layer(path)
    for path, leaf in wanted.items()
    if path not in loaded or loaded[path].shape != leaf.shape
  }
  return {path: loaded[path] for path in wanted if _layer(path) not in broken}


def merge(fresh: types.Params, taken: Mapping[str, jax.Array]) -> types.Params:
  """Returns a tree with arrays, by '/'-joined path, in place of its own."""
  if not taken:
    return fresh
  flat = traverse_util.flatten_dict(fresh, sep="/")
  return traverse_util.unflatten_dict({**flat, **taken}, sep="/")


def place(
  pretrained: Pretrained | None, shapes: types.Params, shardings: types.Params
) -> dict[str, jax.Array]:
  """Loads, and lays each array where the run has it; by '/'-joined path, for `merge`.

  Args:
    pretrained: None for nothing.
    shapes: of the run's parameters.
    shardings: of the same tree.
  """
  if pretrained is None:
    return {}
  where = traverse_util.flatten_dict(shardings)
  return {
    "/".join(path): jax.make_array_from_callback(
      array.shape, where[path], lambda index, array=array: array[index]
    )
    for path, array in pretrained.load(shapes).items()
  }


def _layer(path: tuple[str, ...]) -> tuple[str, ...]:
  """The part of a path that is taken, or fresh, as a whole."""
  if "attn2" in path:
    return path[: path.index("attn2") + 1]
  return path[:-1]


def _adapted(
  params: types.Params, wanted: Mapping[tuple[str, ...], Any]
) -> dict[tuple[str, ...], np.ndarray]:
  """Loaded arrays by path, three channels made one where one is wanted."""
  loaded = traverse_util.flatten_dict(params)
  first, last = ("conv_in", "kernel"), ("conv_out", "kernel")
  if loaded[first].shape[2] == 3 and wanted[first].shape[2] == 1:
    loaded[first] = loaded[first].sum(axis=2, keepdims=True)
  if loaded[last].shape[3] == 3 and wanted[last].shape[3] == 1:
    loaded[last] = loaded[last].mean(axis=3, keepdims=True)
    bias = ("conv_out", "bias")
    loaded[bias] = loaded[bias].mean(axis=0, keepdims=True)
  return loaded


def _each_level(network: unet_lib.UNet, name: str) -> Any:
  """A field's value in one form, whether it is told once or for each level."""
  if name == "num_heads":
    return network.heads()
  value = getattr(network, name)
  if name == "transformer_blocks" and isinstance(value, int):
    return (value,) * len(network.block_channels)
  return value
