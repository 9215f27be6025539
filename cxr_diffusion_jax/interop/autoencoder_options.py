"""The options of diffusers' AutoencoderKL and the fields of ours.

  config.json --read--> fields of AutoencoderKL --write--> config.json

The tables are those of `unet_options`.
"""

from cxr_diffusion_jax import artifacts
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
# Field of ours -> option with the same value.
_SAME = {
  "in_channels": "in_channels",
  "out_channels": "out_channels",
  "latent_channels": "latent_channels",
  "num_layers": "layers_per_block",
  "norm_groups": "norm_num_groups",
  "mid_attention": "mid_block_add_attention",
  "scaling_factor": "scaling_factor",
}
_INERT = ("double_z", "force_upcast", "sample_size")


def read(config: artifacts.JsonMapping, where: str) -> artifacts.Json:
  """Returns the fields of our AutoencoderKL.

  `where` is the file of the options, for messages.

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
    **{ours: values[theirs] for ours, theirs in _SAME.items()},
    "block_channels": tuple(values["block_out_channels"]),
    "mid_attention": bool(values["mid_block_add_attention"]),
    "scaling_factor": float(values["scaling_factor"]),
    "shift_factor": float(values["shift_factor"] or 0.0),
  }


def write(autoencoder: autoencoder_lib.AutoencoderKL) -> artifacts.Json:
  """Returns all of an autoencoder's config.json."""
  levels = len(autoencoder.block_channels)
  return {
    **options.header(CLASS_NAME, _FIXED),
    "down_block_types": ["DownEncoderBlock2D"] * levels,
    "up_block_types": ["UpDecoderBlock2D"] * levels,
    "force_upcast": True,
    **{theirs: getattr(autoencoder, ours) for ours, theirs in _SAME.items()},
    "block_out_channels": list(autoencoder.block_channels),
    "shift_factor": autoencoder.shift_factor or None,
    # The size of pictures that pipelines make by default.
    "sample_size": 512,
  }
