"""Compiled encoding and decoding of any number of images with a codec.

images --encode--> latents        latents --decode--> images, clipped to [-1, 1]

Batches fit in memory and are split over the mesh; every process gets all rows.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.models import kl_codec, placement
from cxr_diffusion_jax.parallel import batches as batches_lib
from cxr_diffusion_jax.parallel import sharding

# A side length that every codec's factor divides.
_LARGE = 2**16

RowsFn = Callable[[types.Array], np.ndarray]


def make_encode(codec: codec_lib.Codec, mesh: jax.sharding.Mesh) -> RowsFn:
  """Builds images [n h w 1] in [-1, 1] -> latents [n h' w' c] float32.

  If the codec has a posterior, its mean is used.
  """
  return _over_rows(codec.encode, codec, mesh, lambda images: images.shape[1])


def make_decode(codec: codec_lib.Codec, mesh: jax.sharding.Mesh) -> RowsFn:
  """Builds latents [n h' w' c] -> images [n h w 1] in [-1, 1] float32."""
  # Any codec's factor is a power of two.
  factor = _LARGE // codec.latent_shape(_LARGE)[0]

  def decode(latent, params):
    return jnp.clip(codec.decode(latent, params), -1.0, 1.0)

  return _over_rows(decode, codec, mesh, lambda latents: factor * latents.shape[1])


def _over_rows(
  fn: Callable[..., jax.Array],
  codec: codec_lib.Codec,
  mesh: jax.sharding.Mesh,
  side_of: Callable[[types.Array], int],
) -> RowsFn:
  """Compiles (rows, params) -> rows, and calls it in batches of one size."""
  whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
  parts = mesh.shape["data"] * mesh.shape["fsdp"]

  @functools.partial(jax.jit, in_shardings=(split, whole), out_shardings=whole)
  @placement.on_mesh(mesh)
  def program(rows, params):
    return fn(rows, params)

  # Not `device_put`, which compares the values of all processes.
  params = jax.tree.map(
    lambda value: jax.make_array_from_callback(
      value.shape, whole, np.asarray(value).__getitem__
    ),
    codec.params,
  )

  def over_rows(values: types.Array) -> np.ndarray:
    values = np.asarray(values, np.float32)
    n = len(values)
    b = parts * min(kl_codec.rows_at_once(side_of(values)), -(-n // parts))

    def run(rows: np.ndarray) -> jax.Array:
      placed = sharding.place_whole_batch({"rows": values[rows]}, mesh)["rows"]
      return program(placed, params)

    return batches_lib.in_batches(run, n, b)

  return over_rows
