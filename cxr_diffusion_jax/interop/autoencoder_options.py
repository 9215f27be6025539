"""The options of diffusers' AutoencoderKL and the fields of ours.

  config.json --read--> fields of AutoencoderKL --write--> config.json

The tables are those of `unet_options`.
"""

from collections.abc import Mapping
from typing import Any

from cxr_diffusion_jax.interop import options
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib

CLASS_NAME = "AutoencoderKL"

_DEFAULTS = {
  "in_channels": 3,
  "out_channels": 3,
  "down_block_types": ("DownEncoderBlock2D",),
  "up_block_types": ("UpDecoderBlock2D",),
  "block_out_channels": (64,),
  "layers_per_block": 1,
  "latent_channels": 4,
  "norm_num_groups": 32,
  "scaling_factor": 0.18215,
  "shift_factor": None,
  "mid_block_add_attention": True,
}
_FIXED = {
  "act_fn": ("silu", "swish"),
  "down_block_types": ("DownEncoderBlock2D",),
  "latents_mean": (None,),
  "latents_std": (None,),
  "up_block_types": ("UpDecoderBlock2D",),
  "use_post_quant_conv": (True,),
  "use_quant_conv": (True,),
}
_INERT = ("double_z", "force_upcast", "sample_size")


def read(config: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Returns the fields of our AutoencoderKL.

  Args:
    config: of diffusers' AutoencoderKL.
    where: its file, for messages.

  Raises:
    errors.InputError: options that are not implemented; they are named.
  """
  values = options.resolve(
    config, defaults=_DEFAULTS, fixed=_FIXED, inert=_INERT, where=where
  )
  levels = len(values["block_out_channels"])
  for key in ("down_block_types", "up_block_types"):
    if len(values[key]) != levels:
      raise options.not_implemented(
        where, f"{key}={values[key]!r} for {levels} levels of channels"
      )
  return {
    "in_channels": values["in_channels"],
    "out_channels": values["out_channels"],
    "latent_channels": values["latent_channels"],
    "block_channels": tuple(values["block_out_channels"]),
    "num_layers": values["layers_per_block"],
    "norm_groups": values["norm_num_groups"],
    "mid_attention": bool(values["mid_block_add_attention"]),
    "scaling_factor": float(values["scaling_factor"]),
    "shift_factor": float(values["shift_factor"] or 0.0),
  }


def write(autoencoder: autoencoder_lib.AutoencoderKL) -> dict[str, Any]:
  """Returns all of an autoencoder's config.json."""
  levels = len(autoencoder.block_channels)
  return {
    "_class_name": CLASS_NAME,
    # These are the options of this version.
    "_diffusers_version": "0.35.2",
    **{key: accepted[0] for key, accepted in _FIXED.items()},
    "down_block_types": ["DownEncoderBlock2D"] * levels,
    "up_block_types": ["UpDecoderBlock2D"] * levels,
    "force_upcast": True,
    "in_channels": autoencoder.in_channels,
    "out_channels": autoencoder.out_channels,
    "latent_channels": autoencoder.latent_channels,
    "block_out_channels": list(autoencoder.block_channels),
    "layers_per_block": autoencoder.num_layers,
    "norm_num_groups": autoencoder.norm_groups,
    "mid_block_add_attention": autoencoder.mid_attention,
    "scaling_factor": autoencoder.scaling_factor,
    "shift_factor": autoencoder.shift_factor or None,
    # The size of pictures that pipelines make by default.
    "sample_size": 512,
  }
