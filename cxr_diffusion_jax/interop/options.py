"""Options in a config.json of diffusers, and the fields of our networks.

  config.json --read_unet, read_autoencoder--> fields --write_...--> config.json

Tables below: `defaults` are diffusers' own of the options that are read, `fixed` must
have one that is implemented, by default the first, and `inert` change no number in
float32. All other options must be off, as they are by default.
"""

from collections.abc import Mapping
import dataclasses

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.models.denoisers import unet as unet_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The options of one class of diffusers' models; see above."""

  class_name: str
  defaults: artifacts.JsonMapping
  fixed: Mapping[str, tuple[object, ...]]
  inert: tuple[str, ...]


UNET = Options(
  class_name="UNet2DConditionModel",
  defaults={
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 8,  # Numbers of heads, in spite of the name.
    "use_linear_projection": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
  },
  fixed={
    "act_fn": ("silu", "swish"),
    "attention_type": ("default",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "downsample_padding": (1,),
    "dropout": (0.0,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "norm_eps": (1e-5,),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_type": ("positional",),
  },
  # Softmax is in float32 here, whether attention is to be upcast or not.
  inert=("addition_embed_type_num_heads", "sample_size", "upcast_attention"),
)

# Fields of ours that diffusers has options for, or that change no float32 number of a
# trained network. The others must have their defaults.
_WRITTEN = (
  "attention",
  "block_channels",
  "context_width",
  "dropout",
  "dtype",
  "feature_layer",
  "head_width",
  "linear_projection",
  "name",
  "norm_groups",
  "num_heads",
  "num_layers",
  "out_channels",
  "parent",
  "pooled",
  "remat",
  "scan_blocks",
  "time_conditioning",
  "transformer_blocks",
  "zero_init",
)

AUTOENCODER = Options(
  class_name="AutoencoderKL",
  defaults={
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
  },
  fixed={
    "act_fn": ("silu", "swish"),
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
  },
  inert=("double_z", "force_upcast", "sample_size"),
)

# Field of our autoencoder -> option with the same value.
_SAME = {
  "in_channels": "in_channels",
  "out_channels": "out_channels",
  "latent_channels": "latent_channels",
  "num_layers": "layers_per_block",
  "norm_groups": "norm_num_groups",
  "mid_attention": "mid_block_add_attention",
  "scaling_factor": "scaling_factor",
}


def read_unet(config: artifacts.JsonMapping, where: str) -> tuple[artifacts.Json, int]:
  """Returns the fields of our UNet and the channels of its input.

  Raises errors.InputError that names the options of the file `where` that are not
  implemented.
  """
  values = _resolve(config, UNET, where)
  channels = tuple(values["block_out_channels"])
  attention = _attention(values, where)
  fields = {
    "out_channels": values["out_channels"],
    "block_channels": channels,
    "num_layers": _each_level(values["layers_per_block"]),
    "attention": attention,
    "num_heads": _each_level(values["attention_head_dim"]),
    "transformer_blocks": _each_level(values["transformer_layers_per_block"]),
    "linear_projection": bool(values["use_linear_projection"]),
    "context_width": _each_level(values["cross_attention_dim"]),
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
    raise _not_implemented(where, ", ".join(wrong))
  return fields, values["in_channels"]


def read_autoencoder(config: artifacts.JsonMapping, where: str) -> artifacts.Json:
  """Returns the fields of our AutoencoderKL; see `read_unet`."""
  values = _resolve(config, AUTOENCODER, where)
  levels = len(values["block_out_channels"])
  for key in ("down_block_types", "up_block_types"):
    if len(values[key]) != levels:
      raise _not_implemented(
        where, f"{key}={values[key]!r} for {levels} levels of channels"
      )
  return {
    **{ours: values[theirs] for ours, theirs in _SAME.items()},
    "block_channels": tuple(values["block_out_channels"]),
    "mid_attention": bool(values["mid_block_add_attention"]),
    "scaling_factor": float(values["scaling_factor"]),
    "shift_factor": float(values["shift_factor"] or 0.0),
  }


def write_unet(unet: unet_lib.UNet, in_channels: int) -> artifacts.Json:
  """Returns a UNet's whole config.json.

  Raises:
    errors.InputError: the UNet has what diffusers' does not.
  """
  wrong = [
    f"{field.name}={getattr(unet, field.name)!r}"
    for field in dataclasses.fields(unet)
    if field.name not in _WRITTEN and getattr(unet, field.name) != field.default
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
    **_header(UNET),
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
    "transformer_layers_per_block": unet.transformer_blocks,
    "attention_head_dim": _each_level(unet.heads()),
    "use_linear_projection": unet.linear_projection,
    "resnet_time_scale_shift": "default" if additive else "scale_shift",
    "time_embedding_dim": None,
  }


def write_autoencoder(autoencoder: autoencoder_lib.AutoencoderKL) -> artifacts.Json:
  """Returns an autoencoder's whole config.json."""
  levels = len(autoencoder.block_channels)
  return {
    **_header(AUTOENCODER),
    "down_block_types": ["DownEncoderBlock2D"] * levels,
    "up_block_types": ["UpDecoderBlock2D"] * levels,
    "force_upcast": True,
    **{theirs: getattr(autoencoder, ours) for ours, theirs in _SAME.items()},
    "block_out_channels": list(autoencoder.block_channels),
    "shift_factor": autoencoder.shift_factor or None,
    # The size of pictures that pipelines make by default.
    "sample_size": 512,
  }


def _resolve(
  config: artifacts.JsonMapping, options: Options, where: str
) -> artifacts.Json:
  """Returns the options that are read, and checks all others."""
  fixed, wrong = options.fixed, []
  for key, value in sorted(config.items()):
    if key in fixed:
      if _same_everywhere(value) not in fixed[key]:
        wrong.append(f"{key}={value!r} (only {fixed[key][0]!r} is implemented)")
    elif key not in {*options.defaults, *options.inert} and _same_everywhere(
      value
    ) not in (None, False):
      wrong.append(f"{key}={value!r} (not implemented)")
  if wrong:
    raise _not_implemented(where, ", ".join(wrong))
  return {key: config.get(key, default) for key, default in options.defaults.items()}


def _attention(values: artifacts.JsonMapping, where: str) -> tuple[bool, ...]:
  """Whether each level has transformers, by the names of its blocks."""
  down, up = list(values["down_block_types"]), list(values["up_block_types"])
  kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
  mirrored = [name.replace("Down", "Up") for name in reversed(down)]
  levels = len(values["block_out_channels"])
  if not set(down) <= kinds.keys() or up != mirrored or len(down) != levels:
    raise _not_implemented(
      where,
      f"down_block_types={down}, up_block_types={up} (only CrossAttnDownBlock2D and"
      f" DownBlock2D, one for each of {levels} levels, with the same way up)",
    )
  return tuple(kinds[name] for name in down)


def _header(options: Options) -> artifacts.Json:
  fixed = {key: accepted[0] for key, accepted in options.fixed.items()}
  return {"_class_name": options.class_name, "_diffusers_version": "0.35.2", **fixed}


def _not_implemented(where: str, what: str) -> errors.InputError:
  return errors.InputError(
    f"options in {where} that are not implemented: {what}",
    fix="use a model without them; Stable Diffusion 1.x and 2.x have none",
  )


def _same_everywhere(value: object) -> object:
  """The value of a list of equal values, one a level; anything else unchanged."""
  if not isinstance(value, list | tuple) or not value:
    return value
  first, *others = value
  return first if all(entry == first for entry in others) else value


def _each_level(value: object) -> object:
  """A list as a tuple, or as its one value where all are equal."""
  value = _same_everywhere(value)
  return tuple(value) if isinstance(value, list) else value


def _whole_numbers(value: object) -> bool:
  return all(
    isinstance(x, int) for x in (value if isinstance(value, tuple) else [value])
  )
