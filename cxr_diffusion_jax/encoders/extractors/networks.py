"""Convolutional networks whose weights the user converts, as extractors.

inception  pool3, 2048  the network of the usual "FID"
densenet   relu of the last norm, global mean, 1024  trained on X-rays of many sites

Both preprocess images as their own project does, so that figures are comparable.
PyTorch's own files are pickles, which run code when they are read: the user converts
them once, where PyTorch is installed and their source is trusted (`CONVERT`).
"""

from collections.abc import Callable
import dataclasses
import pathlib
from types import MappingProxyType

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.interop import names, safetensors_folder
from cxr_diffusion_jax.models import frozen_networks

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

_IMAGES_A_DEVICE = 16

# What torchxrayvision's logits are of, in its order and spelling.
DENSENET_FINDINGS = (
  "Atelectasis",
  "Consolidation",
  "Infiltration",
  "Pneumothorax",
  "Edema",
  "Emphysema",
  "Fibrosis",
  "Effusion",
  "Pneumonia",
  "Pleural_Thickening",
  "Cardiomegaly",
  "Nodule",
  "Mass",
  "Hernia",
  "Lung Lesion",
  "Fracture",
  "Lung Opacity",
  "Enlarged Cardiomediastinum",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
  """A network and its preprocessing.

  Attributes:
    features_fn: (params, images [b h w 1] float32 in [0, 255]) -> [b width].
  """

  module: nn.Module
  input_shape: tuple[int, int, int]
  layer: str
  width: int
  features_fn: Callable[[types.Params, jax.Array], jax.Array]


def inception_v3() -> Network:
  """Inception-v3 of the Frechet inception distance, as torch-fidelity runs it."""
  module = frozen_networks.InceptionV3()

  def features_fn(params, images):
    # As in the published graph, and so not antialiased where images shrink.
    x = (resize_as_tensorflow_1(images, frozen_networks.INCEPTION_SIDE) - 128) / 128
    return jnp.asarray(module.apply({"params": params}, jnp.repeat(x, 3, axis=-1)))

  return Network(
    module=module,
    input_shape=(frozen_networks.INCEPTION_SIDE, frozen_networks.INCEPTION_SIDE, 3),
    layer="pool3, 2048",
    width=frozen_networks.INCEPTION_FEATURES,
    features_fn=features_fn,
  )


def densenet_121() -> Network:
  """DenseNet-121 of X-rays, as torchxrayvision runs it."""
  module = frozen_networks.DenseNet()

  def features_fn(params, images):
    x = extractor_lib.resize(images, frozen_networks.DENSENET_SIDE, "linear")
    return module.apply({"params": params}, (2 * x / 255 - 1) * 1024)[0]

  return Network(
    module=module,
    input_shape=(frozen_networks.DENSENET_SIDE, frozen_networks.DENSENET_SIDE, 1),
    layer="last norm, relu, global mean pool",
    width=frozen_networks.DENSENET_FEATURES,
    features_fn=features_fn,
  )


def densenet_logits(params: types.Params, features: np.ndarray) -> np.ndarray:
  """Logits [n 18] of `DENSENET_FINDINGS`, of features [n 1024]."""
  return features @ np.asarray(params["classifier"]["kernel"]) + np.asarray(
    params["classifier"]["bias"]
  )


def densenet_findings(location: str) -> tuple[str, ...]:
  """`DENSENET_FINDINGS`, with "" for those that the weights were not trained on.

  torchxrayvision's weights of a single dataset have no threshold for these.
  """
  path = pathlib.Path(location).expanduser()
  thresholds = safetensors_folder.read_arrays([path]).get("op_threshs")
  if thresholds is None:
    return DENSENET_FINDINGS
  return tuple(
    "" if np.isnan(threshold) else name
    for name, threshold in zip(DENSENET_FINDINGS, thresholds, strict=True)
  )


def shapes(network: Network) -> types.Params:
  """The tree of shapes of a network's parameters."""
  image = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
  return jax.eval_shape(network.module.init, jax.random.key(0), image)["params"]


def open_network(name: str, location: str) -> Extractor | str:
  """A network with its weights, or the reason why there is none.

  `location` is the file of its weights, see `CONVERT`; "" for none.
  """
  if not location:
    return (
      f"its weights are not available; convert them and name the file:"
      f" {name}=FILE.safetensors"
    )
  network = {"inception": inception_v3, "densenet": densenet_121}[name]()
  path = pathlib.Path(location).expanduser()
  return extractor_lib.of_network(
    name=name,
    layer=network.layer,
    standin=False,
    width=network.width,
    images_a_device=_IMAGES_A_DEVICE,
    features_fn=network.features_fn,
    params=_read_weights(name, path, network),
  )


def read_stored(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Arrays of a safetensors file, without those that no network here has."""
  arrays = safetensors_folder.read_arrays([path])
  return {key: array for key, array in arrays.items() if not key.endswith(_UNUSED)}


def resize_as_tensorflow_1(images: jax.Array, side: int) -> jax.Array:
  """Bilinear between the pixels at i * size / side and its next, as TensorFlow 1 did.

  It does not average where images shrink, but Frechet inception distances are
  comparable only with the same preprocessing.
  """
  for axis in (2, 1):
    size = images.shape[axis]
    places = np.arange(side, dtype=np.float32) * np.float32(size / side)
    low = places.astype(np.int32)
    part = np.expand_dims(places - low, [i for i in range(4) if i != axis])
    first = jnp.take(images, low, axis=axis)
    second = jnp.take(images, np.minimum(low + 1, size - 1), axis=axis)
    images = first + (second - first) * part
  return images


def _read_weights(name: str, path: pathlib.Path, network: Network) -> types.Params:
  """The tree of a network's float32 weights; refuses what is absent or does not fit."""
  lines = " ; ".join(CONVERT[name].splitlines())
  fix = f"convert it where PyTorch is and its source is trusted: {lines}"
  if path.suffix != ".safetensors" or not path.is_file():
    what = "is no safetensors" if path.is_file() else "is absent"
    raise errors.InputError(f"{path} {what}", "a file in safetensors", fix)
  return names.fit(read_stored(path), shapes(network), str(path), fix)
