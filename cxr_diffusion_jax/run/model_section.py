"""The section `model` of a config: the denoiser's network.

config.model --build--> (network, key -> parameters)
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors, naming, types
from cxr_diffusion_jax.run import sections

NETWORKS = "cxr_diffusion_jax.models.denoisers"


def build(
  section: Mapping[str, Any],
  latent_shape: tuple[int, int, int],
  streams: tuple[types.StreamSpec, ...],
) -> tuple[Any, Callable[[jax.Array], types.Params]]:
  section = dict(section)
  name = section.pop("name", "")
  network = naming.load("config.model.name", NETWORKS, name).NETWORK
  dtype = section.pop("dtype", "auto")
  if dtype == "auto":
    # bfloat16 is emulated, and slow, on a CPU.
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  if dtype not in ("bfloat16", "float16", "float32"):
    raise errors.InputError(
      f"config.model.dtype={dtype!r}", "auto, bfloat16, float16 or float32"
    )
  settings = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in section.items()
  }
  given = {
    "dtype": jnp.dtype(dtype),
    "out_channels": latent_shape[-1],
    "context_streams": streams,
  }
  if settings.pop("pretrained", "") and hasattr(network, "published_fields"):
    given |= network.published_fields(streams)
    settings = {key: value for key, value in settings.items() if key not in given}
  model = sections.make(
    network,
    "model",
    settings,
    given=given,
    also=("dtype", "name", "pretrained"),
  )

  def init_fn(key: jax.Array) -> types.Params:
    return model.init(key, *empty_inputs(latent_shape, streams))["params"]

  return model, init_fn


def empty_inputs(
  latent_shape: tuple[int, int, int], streams: tuple[types.StreamSpec, ...]
) -> tuple[jax.Array, jax.Array, types.Context]:
  """x_t [1 h w c], t [1] and a context of one example, all zeros."""
  context = tuple(
    types.TokenStream(
      tokens=jnp.zeros((1, stream.num_tokens, stream.width)),
      mask=jnp.ones((1, stream.num_tokens), bool),
    )
    for stream in streams
  )
  return jnp.zeros((1, *latent_shape)), jnp.zeros((1,)), context
