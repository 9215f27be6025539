"""Convolutional networks whose weights the user converts, as extractors.

inception  pool3, 2048  the network of the usual "FID"
densenet   relu of the last norm, global mean, 1024  trained on X-rays of many sites

Both preprocess images as their own project does, so that figures are comparable.
"""

from collections.abc import Callable
import dataclasses
import pathlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors import weights as weights_lib
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.models import densenet, inception

_IMAGES_A_DEVICE = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
  """A network and its preprocessing.

  Attributes:
    module: of `input_shape` and the parameters.
    input_shape: [h w c] of one image.
    layer: what the features are.
    width: of the features.
    features_fn: (params, images [b h w 1] float32 in [0, 255]) -> [b width].
  """

  module: nn.Module
  input_shape: tuple[int, int, int]
  layer: str
  width: int
  features_fn: Callable[[types.Params, jax.Array], jax.Array]


def inception_v3() -> Network:
  """Inception-v3 of the Frechet inception distance, as torch-fidelity runs it."""
  module = inception.InceptionV3()

  def features_fn(params, images):
    # As in the published graph, and so not antialiased where images shrink.
    x = (resize_as_tensorflow_1(images, inception.SIDE) - 128) / 128
    return jnp.asarray(module.apply({"params": params}, jnp.repeat(x, 3, axis=-1)))

  return Network(
    module=module,
    input_shape=(inception.SIDE, inception.SIDE, 3),
    layer="pool3, 2048",
    width=inception.NUM_FEATURES,
    features_fn=features_fn,
  )


def densenet_121() -> Network:
  """DenseNet-121 of X-rays, as torchxrayvision runs it."""
  module = densenet.DenseNet()

  def features_fn(params, images):
    x = extractor_lib.resize(images, densenet.SIDE, "linear")
    return module.apply({"params": params}, (2 * x / 255 - 1) * 1024)[0]

  return Network(
    module=module,
    input_shape=(densenet.SIDE, densenet.SIDE, 1),
    layer="last norm, relu, global mean pool",
    width=densenet.NUM_FEATURES,
    features_fn=features_fn,
  )


def shapes(network: Network) -> types.Params:
  """The tree of shapes of a network's parameters."""
  image = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
  return jax.eval_shape(network.module.init, jax.random.key(0), image)["params"]


def open_network(name: str, location: str) -> Extractor | str:
  """A network with its weights, or the reason why there is none.

  Args:
    name: "inception" or "densenet".
    location: the file of its weights, see `weights.CONVERT`; "" for none.

  Raises:
    errors.InputError: weights that are absent or do not fit.
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
    params=weights_lib.read(name, path, lambda: shapes(network)),
  )


def resize_as_tensorflow_1(images: jax.Array, side: int) -> jax.Array:
  """Bilinear between the pixels at i * size / side and its next, as TensorFlow 1 did.

  This moves images by less than a pixel and does not average where they shrink, but
  Frechet inception distances are comparable only with the same preprocessing.

  Args:
    images: [b h w c].
    side: in pixels, of both sides.

  Returns:
    [b side side c].
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
