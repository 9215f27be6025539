"""Frozen image encoders as differentiable functions of pixels.

image [b h w 1] in [-1, 1] --resize--> [b s s 3] --(x - mean) / std--> vision model
  -> hidden states of four layers [b n d], and one embedding [b p]

CLIP's vision model (Radford et al. 2021, 2103.00020) or a DINOv2 (Oquab et al. 2023,
2304.07193), such as RAD-DINO (2401.10815); weights as transformers saves them, of
PyTorch or Flax. `encoders.clip.model` encodes prompts and bytes.
"""

from collections.abc import Callable
import dataclasses
import functools
import operator
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.encoders import hub, weights
from cxr_diffusion_jax.encoders.clip import files as clip_files
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.interop.safetensors_folder import read_json

# Looked for in the hub's local cache, best for chest X-rays first.
KNOWN = (
  "microsoft/rad-dino",
  "openai/clip-vit-large-patch14",
  "openai/clip-vit-base-patch32",
)

# Number of layers that are compared, spread evenly up to the last.
NUM_LAYERS = 4

FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFeatures:
  """A frozen encoder.

  Attributes:
    name: as given to `load`.
    layer: the name of the output that `embedding` is.
    params: float32 tree; always an argument, never a constant.
    apply_fn: (params, image [b h w 1] in [-1, 1]) -> (states, a tuple of [b n d];
      embedding [b p]).
  """

  name: str
  layer: str
  params: types.Params
  apply_fn: Callable[
    [types.Params, types.Array], tuple[tuple[jax.Array, ...], jax.Array]
  ]


def find(name: str) -> pathlib.Path | None:
  """Returns the folder of an encoder; an id on the hub must be in its cache."""
  folder = pathlib.Path(name).expanduser()
  if folder.is_dir():
    return folder
  return hub.cached(name, FILES) if hub.is_id(name) else None


def available() -> str | None:
  """Returns the first of `KNOWN` that needs no download, None where there is none."""
  return next((name for name in KNOWN if find(name) is not None), None)


def load(name: str) -> ImageFeatures:
  """Loads a CLIP or a DINOv2.

  Args:
    name: a folder with config.json, preprocessor_config.json and weights, or an id on
      the hub that a CLIP is downloaded from.

  Raises:
    errors.InputError: nothing there, another kind of model, or weights that do not fit.
  """
  folder = find(name) or clip_files.resolve(name)
  config, pixels = (read_json(folder / name) for name in FILES[:2])
  kind = config.get("model_type")
  if kind not in ("clip", "dinov2"):
    raise errors.InputError(
      f"{folder / FILES[0]} describes a model of type {kind!r}", "'clip' or 'dinov2'"
    )
  make = _clip if kind == "clip" else _dino
  with weights.described(folder):
    mean, std = (
      np.asarray(pixels[key], np.float32) for key in ("image_mean", "image_std")
    )
    side, shapes, vision, layer = make(folder)

  def apply_fn(params, image):
    shape = (image.shape[0], side, side, 1)
    image = jax.image.resize(image, shape, "cubic", antialias=True)
    scaled = ((image + 1) / 2 - mean) / std
    states, embedding = vision(params, scaled)
    # The first is the patches' embedding, before any layer.
    chosen = np.ceil(np.linspace(0, len(states) - 1, NUM_LAYERS + 1)[1:])
    return tuple(states[i] for i in sorted({int(i) for i in chosen})), embedding

  return ImageFeatures(
    name=name,
    layer=layer,
    params=clip_files.read_params(folder, shapes),
    apply_fn=apply_fn,
  )


def distance(states: tuple[jax.Array, ...], others: tuple[jax.Array, ...]) -> jax.Array:
  """How differently an encoder sees two images: [b] in [0, 4].

  Squared difference of the tokens' unit vectors, averaged over places and layers: the
  perceptual distance of Zhang et al. 2018 (1801.03924), equation 1, without their
  fitted weights. Each state is [b n d].
  """

  def unit(x):
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-10)

  each = [
    jnp.square(unit(x) - unit(y)).sum(axis=-1).mean(axis=1)
    for x, y in zip(states, others, strict=True)
  ]
  return functools.reduce(operator.add, each) / len(each)


def _clip(folder: pathlib.Path):
  transformers = clip_model.library()
  config = transformers.CLIPConfig.from_pretrained(folder)
  module = transformers.FlaxCLIPModel.module_class(config=config)

  def method(bound, pixels):
    out = bound.vision_model(pixel_values=pixels, output_hidden_states=True)
    return out.hidden_states, bound.visual_projection(out.pooler_output)

  def vision(params, pixels):
    return module.apply({"params": params}, pixels, method=method)

  side = config.vision_config.image_size
  return side, clip_model.parameter_shapes(config), vision, "image embedding"


def _dino(folder: pathlib.Path):
  transformers = clip_model.library()
  config = transformers.Dinov2Config.from_pretrained(folder)
  module = transformers.FlaxDinov2Model.module_class(config=config)

  def vision(params, pixels):
    out = module.apply({"params": params}, pixels, output_hidden_states=True)
    return out.hidden_states, out.pooler_output

  side = config.image_size
  shapes = jax.eval_shape(
    lambda key: module.init(key, jnp.zeros((1, side, side, 3))), jax.random.key(0)
  )["params"]
  return side, shapes, vision, "class token after the norm"
