"""The options of diffusers' UNet2DConditionModel and the fields of our UNet.

  config.json --read--> fields of UNet --write--> config.json

Tables below: `_DEFAULTS` are read, `_FIXED` must have the value that is implemented,
`_INERT` change nothing here.
"""

import dataclasses
from typing import Any

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.interop import options
from cxr_diffusion_jax.models.denoisers import unet as unet_lib

CLASS_NAME = "UNet2DConditionModel"

_DEFAULTS = {
  "in_channels": 4,
  "out_channels": 4,
  "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
  "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
  "block_out_channels": (320, 640, 1280, 1280),
  "layers_per_block": 2,
  "norm_num_groups": 32,
  "cross_attention_dim": 1280,
  "transformer_layers_per_block": 1,
  # Numbers of heads, in spite of the name.
  "attention_head_dim": 8,
  "use_linear_projection": False,
  "num_class_embeds": None,
  "resnet_time_scale_shift": "default",
  "time_embedding_dim": None,
}
_FIXED = {
  "act_fn": ("silu", "swish"),
  "addition_embed_type": (None,),
  "addition_time_embed_dim": (None,),
  "attention_type": ("default",),
  "center_input_sample": (False,),
  "class_embed_type": (None,),
  "class_embeddings_concat": (False,),
  "conv_in_kernel": (3,),
  "conv_out_kernel": (3,),
  "cross_attention_norm": (None,),
  "downsample_padding": (1,),
  "dropout": (0.0,),
  "dual_cross_attention": (False,),
  "encoder_hid_dim": (None,),
  "encoder_hid_dim_type": (None,),
  "flip_sin_to_cos": (True,),
  "freq_shift": (0,),
  "mid_block_only_cross_attention": (None, False),
  "mid_block_scale_factor": (1,),
  "mid_block_type": ("UNetMidBlock2DCrossAttn",),
  "norm_eps": (1e-5,),
  "num_attention_heads": (None,),
  "only_cross_attention": (False,),
  "projection_class_embeddings_input_dim": (None,),
  "resnet_out_scale_factor": (1.0,),
  "resnet_skip_time_act": (False,),
  "reverse_transformer_layers_per_block": (None,),
  "time_cond_proj_dim": (None,),
  "time_embedding_act_fn": (None,),
  "time_embedding_type": ("positional",),
  "timestep_post_act": (None,),
}
# Softmax is in float32 here, whether attention is to be upcast or not.
_INERT = ("addition_embed_type_num_heads", "sample_size", "upcast_attention")

# diffusers' values of these follow from fields of ours; all other fields must have
# their defaults, since diffusers has nothing for them.
_WRITTEN = (
  "attention",
  "block_channels",
  "context_width",
  "head_width",
  "linear_projection",
  "norm_groups",
  "num_classes",
  "num_heads",
  "num_layers",
  "out_channels",
  "time_conditioning",
  "transformer_blocks",
)
# No effect on a trained network's float32 numbers.
_OURS_ALONE = (
  "dropout",
  "dtype",
  "feature_layer",
  "name",
  "parent",
  "pooled",
  "remat",
  "zero_init",
)


def read(config: artifacts.JsonMapping, where: str) -> tuple[artifacts.Json, int]:
  """Returns the fields of our UNet and the channels of its input.

  `where` is the file of the options, for messages.

  Raises:
    errors.InputError: options that are not implemented; they are named.
  """
  values = options.resolve(
    config, defaults=_DEFAULTS, fixed=_FIXED, inert=_INERT, where=where
  )
  channels = tuple(values["block_out_channels"])
  attention = _attention(values, where)
  fields = {
    "out_channels": values["out_channels"],
    "block_channels": channels,
    "num_layers": options.each_level(values["layers_per_block"]),
    "attention": attention,
    "num_heads": options.each_level(values["attention_head_dim"]),
    "transformer_blocks": options.each_level(values["transformer_layers_per_block"]),
    "linear_projection": bool(values["use_linear_projection"]),
    "num_classes": values["num_class_embeds"],
    "context_width": options.each_level(values["cross_attention_dim"]),
    "norm_groups": values["norm_num_groups"],
    "time_conditioning": {"default": "additive", "scale_shift": "scale_shift"}.get(
      values["resnet_time_scale_shift"]
    ),
  }
  unusual = {
    "layers_per_block": isinstance(fields["num_layers"], int),
    "cross_attention_dim": isinstance(fields["context_width"], int),
    "transformer_layers_per_block": _whole_numbers(fields["transformer_blocks"]),
    "attention_head_dim": _whole_numbers(fields["num_heads"]),
    "norm_num_groups": isinstance(values["norm_num_groups"], int),
    "resnet_time_scale_shift": fields["time_conditioning"] is not None,
    "time_embedding_dim": values["time_embedding_dim"] in (None, 4 * channels[0]),
  }
  wrong = [f"{key}={values[key]!r}" for key, fits in unusual.items() if not fits]
  if wrong:
    raise options.not_implemented(where, ", ".join(wrong))
  return fields, values["in_channels"]


def _whole_numbers(value: Any) -> bool:
  return all(
    isinstance(entry, int)
    for entry in (value if isinstance(value, tuple) else (value,))
  )


def _attention(values: artifacts.JsonMapping, where: str) -> tuple[bool, ...]:
  """Whether each level has transformers, by the names of its blocks."""
  down, up = list(values["down_block_types"]), list(values["up_block_types"])
  kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
  mirrored = [name.replace("Down", "Up") for name in reversed(down)]
  levels = len(values["block_out_channels"])
  if not set(down) <= kinds.keys() or up != mirrored or len(down) != levels:
    raise options.not_implemented(
      where,
      f"down_block_types={down}, up_block_types={up} (only CrossAttnDownBlock2D and"
      f" DownBlock2D, one for each of {levels} levels, with the same way up)",
    )
  return tuple(kinds[name] for name in down)


def write(unet: unet_lib.UNet, in_channels: int) -> artifacts.Json:
  """Returns the config.json of a UNet, whole.

  Raises:
    errors.InputError: the UNet has what diffusers' does not.
  """
  wrong = [
    f"{field.name}={getattr(unet, field.name)!r}"
    for field in dataclasses.fields(unet)
    if field.name not in (*_WRITTEN, *_OURS_ALONE)
    and getattr(unet, field.name) != field.default
  ]
  if wrong:
    raise errors.InputError(
      f"a denoiser with {', '.join(wrong)}, which diffusers' UNet does not have",
      "the options of Stable Diffusion alone",
      "train from configs/sd15_finetune.py, which uses only those",
    )
  down = ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in unet.attention]
  additive = unet.time_conditioning == "additive"
  return {
    **options.header(CLASS_NAME, _FIXED),
    "sample_size": None,
    # PyTorch overflows in 16 bits at Stable Diffusion 2.1 without; it has linear ones.
    "upcast_attention": unet.linear_projection,
    "in_channels": in_channels,
    "out_channels": unet.out_channels,
    "down_block_types": down,
    "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
    "block_out_channels": list(unet.block_channels),
    "layers_per_block": unet.num_layers,
    "norm_num_groups": unet.norm_groups,
    "cross_attention_dim": unet.context_width,
    "transformer_layers_per_block": _plain(unet.transformer_blocks),
    "attention_head_dim": _plain(options.each_level(list(unet.heads()))),
    "use_linear_projection": unet.linear_projection,
    "num_class_embeds": unet.num_classes,
    "resnet_time_scale_shift": "default" if additive else "scale_shift",
    "time_embedding_dim": None,
  }


def _plain(value: int | tuple[int, ...]) -> int | list[int]:
  return value if isinstance(value, int) else list(value)
