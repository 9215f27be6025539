"""The section `model` of a config: the denoiser's network.

config.model --build--> (network, key -> parameters)
"""

from collections.abc import Callable
import inspect

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import artifacts, errors, naming, types
from cxr_diffusion_jax.models import network as network_lib
from cxr_diffusion_jax.run import sections

NETWORKS = "cxr_diffusion_jax.models.denoisers"


def build(
  section: artifacts.JsonMapping,
  latent_shape: tuple[int, int, int],
  streams: tuple[types.StreamSpec, ...],
  *,
  platform: str,
) -> tuple[network_lib.Network, Callable[[jax.Array], types.Params]]:
  """Reads the section: the network, and (key) -> its parameters.

  Args:
    platform: where it will run, see `mesh.platform`; decides what 'auto' means.

  Raises:
    errors.InputError: an unknown network or key, or a value out of range.
  """
  section = dict(section)
  name = section.pop("name", "")
  network = naming.load("config.model.name", NETWORKS, name).NETWORK
  settings, dtype = fields(section, platform)
  given = {
    "dtype": dtype,
    "out_channels": latent_shape[-1],
    "context_streams": streams,
  }
  if "scan_blocks" in inspect.signature(network).parameters:
    given["scan_blocks"] = _scan_blocks(settings.pop("scan_blocks", "auto"), platform)
  if settings.pop("pretrained", "") and hasattr(network, "published_fields"):
    given |= network.published_fields(streams)
    settings = {key: value for key, value in settings.items() if key not in given}
  model = sections.make(
    network,
    "model",
    settings,
    given=given,
    also=("dtype", "name", "pretrained", *(given.keys() & {"scan_blocks"})),
  )

  def init_fn(key: jax.Array) -> types.Params:
    return model.init(key, *empty_inputs(latent_shape, streams))["params"]

  return model, init_fn


def fields(
  section: artifacts.JsonMapping, platform: str
) -> tuple[artifacts.Json, jnp.dtype]:
  """Returns the fields of a network except its dtype, and the dtype on a platform.

  Raises:
    errors.InputError: an unknown dtype.
  """
  values = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in section.items()
  }
  dtype = values.pop("dtype", "auto")
  if dtype == "auto":
    # CPUs emulate bfloat16, which is slow.
    dtype = "float32" if platform == "cpu" else "bfloat16"
  if dtype not in ("bfloat16", "float16", "float32"):
    raise errors.InputError(
      f"config.model.dtype={dtype!r}", "auto, bfloat16, float16 or float32"
    )
  return values, jnp.dtype(dtype)


def _scan_blocks(value: bool | str, platform: str) -> bool:
  """The field for a config's 'auto', True or False; flags make strings of these."""
  choices = {"auto": platform != "cpu", "true": True, "false": False}
  if str(value).lower() not in choices:
    raise errors.InputError(
      f"config.model.scan_blocks={value!r}", "auto, True or False"
    )
  return choices[str(value).lower()]


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
