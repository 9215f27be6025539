"""A frozen network as a function from grey bytes to one vector an image.

images uint8 [b h w 1] --resize, antialiased--> network's own size --> features [b d]
"""

from collections.abc import Callable
import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import types

# Raised when the same network gives other features: saved ones are computed again.
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Extractor:
  """A network and one of its layers.

  Attributes:
    name: identifies the network.
    layer: whose output the features are.
    standin: whether this project trained it, in place of a published network.
    fingerprint: of the weights and their use.
    width: d.
    batch_size: images a call.
    apply_fn: (params, uint8 [b h w 1]) -> [b d] float32.
    params: None for a network that holds its own, and places itself on devices.
  """

  name: str
  layer: str
  standin: bool
  fingerprint: str
  width: int
  batch_size: int
  apply_fn: Callable[[types.Params, types.Array], types.Array]
  params: types.Params = None


def of_network(
  *,
  name: str,
  layer: str,
  standin: bool,
  width: int,
  images_a_device: int,
  features_fn: Callable[[types.Params, jax.Array], jax.Array],
  params: types.Params,
) -> Extractor:
  """Compiles a network that runs in JAX.

  Args:
    name: see `Extractor`, as for `layer`, `standin` and `width`.
    layer: of the features.
    standin: whether this project trained it.
    width: of the features.
    images_a_device: images of a call for each device of this process.
    features_fn: (params, images [b h w 1] float32 in [0, 255]) -> [b d].
    params: of the network.
  """

  def apply_fn(params, images):
    return features_fn(params, images.astype(jnp.float32)).astype(jnp.float32)

  return Extractor(
    name=name,
    layer=layer,
    standin=standin,
    fingerprint=fingerprint(params, name, layer),
    width=width,
    batch_size=images_a_device * jax.local_device_count(),
    apply_fn=jax.jit(apply_fn),
    params=params,
  )


def resize(images: jax.Array, side: int, method: str = "cubic") -> jax.Array:
  """Resizes images to the size that a network was trained on.

  Antialiased: where images shrink, the kernel widens with the step, so that fine detail
  is averaged and not aliased (Parmar et al. 2022, 2104.11222). Other shapes than
  squares are stretched.

  Args:
    images: [b h w 1] in [0, 255].
    side: in pixels.
    method: of `jax.image.resize`.

  Returns:
    [b side side 1] in [0, 255].
  """
  shape = (images.shape[0], side, side, 1)
  if images.shape == shape:
    return images
  return jnp.clip(jax.image.resize(images, shape, method, antialias=True), 0, 255)


def fingerprint(params: types.Params, *facts: str) -> str:
  """Returns 16 hexadecimal digits that identify weights and their use."""
  digest = hashlib.sha256(repr((FORMAT, facts)).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]
