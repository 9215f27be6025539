"""Runs that start from a published UNet.

  FOLDER --check--> fits config.model, or an error before data is prepared
  fresh parameters --merge(loaded)--> parameters of step 0

A layer is loaded if all of its arrays fit; a cross-attention block counts as one layer.
From three channels to one, the first layer's kernel is summed and the last one's
averaged, which preserves the output for grey images. Resuming does not need the folder.
"""

from collections.abc import Mapping
import dataclasses

from absl import logging
from flax import traverse_util
import jax
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.interop import diffusers
from cxr_diffusion_jax.models import network as network_lib
from cxr_diffusion_jax.models.denoisers import unet as unet_lib

# Fields that must match; the widths of context, input and output may differ.
_FIELDS = (
  "attention",
  "block_channels",
  "linear_projection",
  "norm_groups",
  "num_heads",
  "num_layers",
  "time_conditioning",
  "transformer_blocks",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
  """The folder of a run's initial weights; `check` and `load` read it.

  Attributes:
    network: what the weights are for.
    prediction: what it is to predict.
  """

  folder: str
  network: unet_lib.UNet
  prediction: str

  def check(self) -> None:
    """Reads the folder's configuration and the headers of its weights.

    Raises:
      errors.InputError: the folder is absent or damaged, holds another network, or is a
        pipeline whose network predicts something else.
    """
    theirs, _, place = diffusers.read_unet(self.folder)
    prediction = diffusers.read_prediction(self.folder)
    if prediction not in (None, self.prediction):
      raise errors.InputError(
        f"config.diffusion.prediction={self.prediction}, but the scheduler of"
        f" config.model.pretrained={self.folder} is of a network for {prediction}",
        f"config.diffusion.prediction={prediction}",
        f"set it, or name {place} to train these weights for another prediction",
      )
    differing = {
      name: (getattr(self.network, name), getattr(theirs, name))
      for name in _FIELDS
      if _each_level(self.network, name) != _each_level(theirs, name)
    }
    if differing:
      ours = (f"{name}={value!r}" for name, (value, _) in differing.items())
      expected = (f"{name}={value!r}" for name, (_, value) in differing.items())
      raise errors.InputError(
        f"config.model.pretrained={place}, but config.model has {', '.join(ours)}",
        f"{', '.join(expected)}, as there",
        "set these keys of config.model, or name a folder of that network",
      )

  def load(self, shapes: types.Params) -> dict[tuple[str, ...], np.ndarray]:
    """Reads the arrays that fit a tree of shapes: float32, keyed by path."""
    self.check()
    _, params = diffusers.load_unet(self.folder)
    flat = _flat(shapes)
    loaded = fitting(_adapted(params, flat), flat)
    fresh = sorted({"/".join(_layer(path)) for path in flat.keys() - loaded.keys()})
    logging.info(
      "%d of %d arrays (%s of %s parameters) are loaded from %s; %s",
      len(loaded),
      len(flat),
      f"{sum(array.size for array in loaded.values()):,}",
      f"{sum(int(np.prod(leaf.shape)) for leaf in flat.values()):,}",
      self.folder,
      f"initialised: {', '.join(fresh)}" if fresh else "none is initialised",
    )
    return loaded


def read(
  section: artifacts.JsonMapping, network: network_lib.Network, prediction: str
) -> Pretrained | None:
  """Reads config.model.pretrained; None if it is not set.

  `prediction` is what the network is to learn, a name of `diffusion.prediction`.

  Raises:
    errors.InputError: the network is not a UNet.
  """
  folder = section.get("pretrained", "")
  if not folder:
    return None
  if not isinstance(network, unet_lib.UNet):
    raise errors.InputError(
      f"config.model.pretrained={folder} with config.model.name={section.get('name')}",
      "config.model.name=unet, the only network with published weights",
    )
  return Pretrained(folder=str(folder), network=network, prediction=prediction)


def fitting(
  loaded: Mapping[tuple[str, ...], types.Params],
  shapes: Mapping[tuple[str, ...], types.Params],
) -> dict[tuple[str, ...], types.Params]:
  """Returns the arrays of layers in which every array fits."""
  broken = {
    _layer(path)
    for path, leaf in shapes.items()
    if path not in loaded or loaded[path].shape != leaf.shape
  }
  return {path: loaded[path] for path in shapes if _layer(path) not in broken}


def merge(fresh: types.Params, loaded: Mapping[str, jax.Array]) -> types.Params:
  """Replaces arrays of a tree with the loaded ones, keyed by '/'-joined path."""
  if not loaded:
    return fresh
  flat = traverse_util.flatten_dict(fresh, sep="/")
  return traverse_util.unflatten_dict({**flat, **loaded}, sep="/")


def place(
  pretrained: Pretrained | None, shapes: types.Params, shardings: types.Params
) -> dict[str, jax.Array]:
  """Loads arrays with the run's shardings, by '/'-joined path; {} without weights."""
  if pretrained is None:
    return {}
  where = _flat(shardings)
  return {
    "/".join(path): jax.make_array_from_callback(
      array.shape, where[path], lambda index, array=array: array[index]
    )
    for path, array in pretrained.load(shapes).items()
  }


def _flat(tree: types.Params) -> dict[tuple[str, ...], types.Params]:
  """Arrays by their paths."""
  return dict(traverse_util.flatten_dict(tree))


def _layer(path: tuple[str, ...]) -> tuple[str, ...]:
  """The part of a path that is loaded or initialised as a whole."""
  if "attn2" in path:
    return path[: path.index("attn2") + 1]
  return path[:-1]


def _adapted(
  params: types.Params, shapes: Mapping[tuple[str, ...], types.Params]
) -> dict[tuple[str, ...], np.ndarray]:
  """Loaded arrays by path, with three channels reduced to one where shapes say so."""
  loaded = _flat(params)
  first, last = ("conv_in", "kernel"), ("conv_out", "kernel")
  if loaded[first].shape[2] == 3 and shapes[first].shape[2] == 1:
    loaded[first] = loaded[first].sum(axis=2, keepdims=True)
  if loaded[last].shape[3] == 3 and shapes[last].shape[3] == 1:
    loaded[last] = loaded[last].mean(axis=3, keepdims=True)
    bias = ("conv_out", "bias")
    loaded[bias] = loaded[bias].mean(axis=0, keepdims=True)
  return loaded


def _each_level(network: unet_lib.UNet, name: str) -> object:
  """A field's value for each level, if it has such values."""
  if name == "num_heads":
    return network.heads()
  value = getattr(network, name)
  if name == "transformer_blocks" and isinstance(value, int):
    return (value,) * len(network.block_channels)
  return value
