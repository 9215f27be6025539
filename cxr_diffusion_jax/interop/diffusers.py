"""Networks from the folders that PyTorch's diffusers writes, and into such folders.

  load_unet, load_autoencoder: FOLDER (config.json, safetensors) -> network, parameters
  save_unet, save_autoencoder: network, parameters -> FOLDER, which diffusers loads

Same weights, same numbers in float32; what is saved and loaded again is bit-equal.
Neither PyTorch nor diffusers is needed, and no pickle is read.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import pathlib
from types import MappingProxyType
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.interop import names, options, safetensors_folder
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.models.denoisers import unet as unet_lib

T = TypeVar("T")

# diffusers' names of predictions: ours.
_PREDICTIONS = MappingProxyType(
  {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "x0",
    "flow_prediction": "velocity",
  }
)


def load_unet(folder: str | os.PathLike) -> tuple[unet_lib.UNet, types.Params]:
  """Loads a UNet2DConditionModel.

  The model is in the folder, or in `unet` of a pipeline's folder. Returns the network,
  for float32 (`clone(dtype=...)` for another), and its parameters on the host: float32,
  widened where the file has 16 bits.

  Raises:
    errors.InputError: no such model, damaged files, options that are not implemented,
      or weights that are missing, unknown or of a wrong shape; each with its name.
  """
  network, in_channels, place = read_unet(folder)
  return network, _read_params(place, unet_shapes(network, in_channels))


def read_unet(folder: str | os.PathLike) -> tuple[unet_lib.UNet, int, pathlib.Path]:
  """Returns a UNet without its weights, its input's channels, and the model's folder.

  Checks the weights' names and shapes; errors are those of `load_unet`.
  """
  place = safetensors_folder.locate(folder, "unet")
  fields, in_channels = read_fields(place, options.UNET, options.read_unet)
  network = unet_lib.UNet(**fields)
  with _typed(place):
    shapes = unet_shapes(network, in_channels)
  _check_files(place, shapes)
  return network, in_channels, place


def read_fields(
  place: pathlib.Path,
  kind: options.Options,
  read_fn: Callable[[artifacts.JsonMapping, str], T],
) -> T:
  """Returns what `read_fn` makes of a model's config.json.

  Raises:
    errors.InputError: of `read_fn`, or values of a wrong type.
  """
  config = safetensors_folder.read_config(place, kind.class_name)
  with _typed(place):
    return read_fn(config, str(place / safetensors_folder.CONFIG))


@contextlib.contextmanager
def _typed(place: pathlib.Path) -> Iterator[None]:
  """Turns what is raised for values that no network has into an `InputError`."""
  try:
    yield
  except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
    raise errors.InputError(
      f"{place / safetensors_folder.CONFIG} has a value of a wrong type: {error}",
      "what diffusers' save_pretrained wrote",
    ) from error


def read_prediction(folder: str | os.PathLike) -> str | None:
  """What the UNet of a pipeline predicts, as `diffusion.prediction` names it.

  Returns:
    None where the folder holds a UNet alone, without a scheduler.

  Raises:
    errors.InputError: a scheduler of a kind of prediction that is not implemented.
  """
  place = safetensors_folder.locate(folder, "unet")
  path = place.parent / "scheduler" / "scheduler_config.json"
  # A UNet's own folder, though part of a pipeline, is taken as a UNet alone.
  if place == pathlib.Path(folder).expanduser() or not path.is_file():
    return None
  config = safetensors_folder.read_json(path)
  flow = str(config.get("_class_name", "")).startswith("FlowMatch")
  kind = "flow_prediction" if flow else config.get("prediction_type", "epsilon")
  if str(kind) not in _PREDICTIONS:
    raise errors.InputError(
      f"{path} has prediction_type={kind!r}", ", ".join(_PREDICTIONS)
    )
  return _PREDICTIONS[str(kind)]


def load_autoencoder(
  folder: str | os.PathLike,
) -> tuple[autoencoder_lib.AutoencoderKL, types.Params]:
  """Loads an AutoencoderKL of the folder or of its `vae`; see `load_unet`."""
  network, place = read_autoencoder(folder)
  with _typed(place):
    shapes = _autoencoder_shapes(network)
  _check_files(place, shapes)
  return network, _read_params(place, shapes)


def read_autoencoder(
  folder: str | os.PathLike,
) -> tuple[autoencoder_lib.AutoencoderKL, pathlib.Path]:
  """Returns an autoencoder without its weights, and the model's folder."""
  place = safetensors_folder.locate(folder, "vae")
  fields = read_fields(place, options.AUTOENCODER, options.read_autoencoder)
  return autoencoder_lib.AutoencoderKL(**fields), place


def save_unet(
  folder: str | os.PathLike,
  unet: unet_lib.UNet,
  params: types.Params,
  *,
  dtype: str = "float32",
) -> None:
  """Saves a UNet so that diffusers' `UNet2DConditionModel.from_pretrained` loads it.

  The folder is the model's alone. The file's `dtype` is 'float32' or 'float16'.

  Raises:
    errors.InputError: options that diffusers does not have, parameters that are not
      this network's, or a folder that cannot be written to.
  """
  # The input's channels are the one thing that only the parameters know.
  kernel = params.get("conv_in", {}).get("kernel", np.zeros((3, 3, 4, 1)))
  in_channels = kernel.shape[2]
  config = options.write_unet(unet, in_channels)
  _save(folder, config, unet_shapes(unet, in_channels), params, dtype)


def save_autoencoder(
  folder: str | os.PathLike,
  autoencoder: autoencoder_lib.AutoencoderKL,
  params: types.Params,
  *,
  dtype: str = "float32",
) -> None:
  """Saves an autoencoder for diffusers' `AutoencoderKL`; see `save_unet`."""
  config = options.write_autoencoder(autoencoder)
  _save(folder, config, _autoencoder_shapes(autoencoder), params, dtype)


def unet_shapes(unet: unet_lib.UNet, in_channels: int) -> types.Params:
  """The tree of a UNet's parameters as shapes; `context_streams` must be None."""
  side = 2 ** (len(unet.block_channels) - 1)
  context = types.TokenStream(
    tokens=jnp.zeros((1, 1, unet.context_width)), mask=jnp.ones((1, 1), bool)
  )
  variables = jax.eval_shape(
    unet.init,
    jax.random.key(0),
    jnp.zeros((1, side, side, in_channels)),
    jnp.zeros((1,)),
    (context,),
  )
  return variables["params"]


def _autoencoder_shapes(autoencoder: autoencoder_lib.AutoencoderKL) -> types.Params:
  image = jnp.zeros(
    (1, autoencoder.factor, autoencoder.factor, autoencoder.in_channels)
  )
  return jax.eval_shape(autoencoder.init, jax.random.key(0), image)["params"]


def _check_files(place: pathlib.Path, shapes: types.Params) -> None:
  stored = safetensors_folder.read_shapes(place)
  names.check({names.modern(name): s for name, s in stored.items()}, shapes, str(place))


def _read_params(place: pathlib.Path, shapes: types.Params) -> types.Params:
  arrays = safetensors_folder.read(place)
  return names.to_tree(
    {names.modern(name): array for name, array in arrays.items()}, shapes
  )


def _save(
  folder: str | os.PathLike,
  config: artifacts.Json,
  shapes: types.Params,
  params: types.Params,
  dtype: str,
) -> None:
  if dtype not in ("float32", "float16"):
    raise errors.InputError(f"weights saved as {dtype!r}", "'float32' or 'float16'")
  names.check(names.shapes_by_name(params), shapes, "the parameters to be saved")
  arrays = {
    name: array.astype(dtype) for name, array in names.from_tree(params).items()
  }
  place = pathlib.Path(folder).expanduser()
  safetensors_folder.write(place, config, arrays)
