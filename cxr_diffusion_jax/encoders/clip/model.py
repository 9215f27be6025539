"""CLIP as a frozen encoder of prompts and of grey images, from a folder or the hub.

  prompts --tokenizer--> ids [n k l] --text model--> tokens [n k*l d], embedding [n p]
  images uint8 [n h w 1] --resize, crop--> --(x / 255 - mean) / std, x3--> pixels
  pixels [n s s 3] --vision model--> tokens [n 1+g*g d], embedding [n p]
                                     and what its last layer takes [n 1+g*g d]

The maths is transformers' FlaxCLIPModel (Radford et al., 2103.00020). The weights may
have been written by Flax or by PyTorch, which is not needed to read them; parameters
are always an argument of the compiled functions, never a constant in them.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import types as python_types
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders import weights
from cxr_diffusion_jax.encoders.clip import files as clip_files
from cxr_diffusion_jax.encoders.clip import inputs as clip_inputs
from cxr_diffusion_jax.parallel import batches

if TYPE_CHECKING:
  import transformers


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipModel:
  """A CLIP ready to encode.

  Attributes:
    name: the folder or the hub's id that it came from.
    config: transformers' CLIPConfig.
    params: float32 tree of FlaxCLIPModel.
    tokenizer: transformers' fast tokenizer.
    pixels: what happens to an image before the vision model.
    text_fn: compiled (params, ids [n l]) -> (tokens [n l d], embedding [n p]).
    image_fn: compiled (params, pixels uint8 [n s s 1]) -> (tokens [n 1+g*g d],
      embedding [n p]); token 0 is the class token.
    patches_fn: the same with the penultimate hidden states in place of the last.
    project_fn: compiled (params, tokens [... d]) -> [... p]: puts vision states where
      the class token is put, into the space shared with the text.
  """

  name: str
  config: "transformers.CLIPConfig"
  params: types.Params
  tokenizer: clip_inputs.Tokenizer
  pixels: clip_inputs.PixelSettings
  text_fn: Callable[[types.Params, types.Array], tuple[jax.Array, jax.Array]]
  image_fn: Callable[[types.Params, types.Array], tuple[jax.Array, jax.Array]]
  patches_fn: Callable[[types.Params, types.Array], tuple[jax.Array, jax.Array]]
  project_fn: Callable[[types.Params, types.Array], jax.Array]

  @property
  def standin(self) -> bool:
    """True when this project trained it."""
    return bool(getattr(self.config, "standin", False))

  @property
  def max_tokens(self) -> int:
    """l of the text model: longer prompts are cut."""
    return self.config.text_config.max_position_embeddings

  @property
  def grid(self) -> int:
    """g: patches along a side of the image."""
    return self.config.vision_config.image_size // self.config.vision_config.patch_size


def library() -> python_types.ModuleType:
  """Imports transformers without TensorFlow and PyTorch.

  It would load both, which takes seconds and gigabytes, and neither is used here.
  """
  os.environ.setdefault("USE_TF", "0")
  os.environ.setdefault("USE_TORCH", "0")
  import transformers

  return transformers


def load(name: str | os.PathLike) -> ClipModel:
  """Loads a CLIP with its tokenizer and its image settings.

  Args:
    name: a folder written by `save_pretrained` (Flax msgpack, or safetensors of Flax or
      PyTorch, sharded or not), or an id on the hub.

  Raises:
    errors.InputError: nothing there, another kind of model, or a tokenizer, image
      settings or weights that are missing or do not fit config.json.
  """
  folder = clip_files.resolve(os.fspath(name))
  clip_files.check(folder)
  transformers = library()
  with weights.described(folder):
    config = transformers.CLIPConfig.from_pretrained(folder)
    processor = transformers.CLIPImageProcessor.from_pretrained(folder)
    pixels = clip_inputs.read_pixels(processor, config)
    shapes = parameter_shapes(config)
    tokenizer = clip_inputs.load_tokenizer(
      transformers.AutoTokenizer, folder, config.text_config
    )
  return assemble(
    name=os.fspath(name),
    config=config,
    params=clip_files.read_params(folder, shapes),
    tokenizer=tokenizer,
    pixels=pixels,
  )


def assemble(
  *,
  name: str,
  config: "transformers.CLIPConfig",
  params: types.Params,
  tokenizer: clip_inputs.Tokenizer,
  pixels: clip_inputs.PixelSettings,
) -> ClipModel:
  """Compiles the functions of a CLIP around its configuration."""
  module = library().FlaxCLIPModel.module_class(config=config)
  mean = np.asarray(pixels.mean, np.float32)
  std = np.asarray(pixels.std, np.float32)

  def text(bound, ids):
    # Without a padding mask, as Stable Diffusion calls it: the causal mask keeps real
    # tokens from seeing the padding behind them, whatever it holds.
    position_ids = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    out = bound.text_model(
      input_ids=ids, attention_mask=jnp.ones_like(ids), position_ids=position_ids
    )
    return out.last_hidden_state, bound.text_projection(out.pooler_output)

  def vision(bound, images, **options):
    scaled = (images.astype(jnp.float32) / 255.0 - mean) / std
    out = bound.vision_model(pixel_values=scaled, **options)
    return out, bound.visual_projection(out.pooler_output)

  def image(bound, images):
    out, embedding = vision(bound, images)
    return out.last_hidden_state, embedding

  def patches(bound, images):
    out, embedding = vision(bound, images, output_hidden_states=True)
    return out.hidden_states[-2], embedding

  def project(bound, tokens):
    return bound.visual_projection(bound.vision_model.post_layernorm(tokens))

  def compiled(method):
    return jax.jit(
      lambda params, inputs: module.apply({"params": params}, inputs, method=method)
    )

  return ClipModel(
    name=name,
    config=config,
    params=params,
    tokenizer=tokenizer,
    pixels=pixels,
    text_fn=compiled(text),
    image_fn=compiled(image),
    patches_fn=compiled(patches),
    project_fn=compiled(project),
  )


def parameter_shapes(config: "transformers.CLIPConfig") -> types.Params:
  """Returns the tree of jax.ShapeDtypeStruct that a CLIPConfig asks for."""
  module = library().FlaxCLIPModel.module_class(config=config)
  side = config.vision_config.image_size
  ids = jnp.zeros((1, 1), jnp.int32)
  return jax.eval_shape(
    lambda key: module.init(
      key, ids, jnp.zeros((1, side, side, 3)), jnp.ones_like(ids), ids
    ),
    jax.random.key(0),
  )["params"]


def encode_text(
  model: ClipModel, prompts: Sequence[str], *, chunks: int = 1, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Encodes n prompts.

  Args:
    chunks: k windows of l = `model.max_tokens` that a prompt may fill, each framed and
      encoded as a prompt of its own; the rest is cut, with a warning.
    batch_size: windows in one call of the compiled function.

  Returns:
    tokens [n k*l d] float32 (the last hidden state, after the final norm; zeros in
    windows without a word), mask [n k*l] bool (True up to and including the end token
    of each window that has a word, and of the first), and embedding [n p] float32 in
    the space shared with the images (not normalised), which is the first window's.
  """
  if not len(prompts):
    raise ValueError("nothing to encode: got no prompts, expected at least one")
  ids, mask = clip_inputs.windows(
    model.tokenizer, prompts, max_tokens=model.max_tokens, chunks=chunks
  )
  used = mask.any(axis=-1)
  states, embeddings = _run(model.text_fn, model.params, ids[used], batch_size)
  tokens = np.zeros((*mask.shape, states.shape[-1]), np.float32)
  tokens[used] = states
  # Rows of `embeddings` are the windows in use, in order, the first of each prompt too.
  first = np.cumsum(used.sum(axis=1)) - used.sum(axis=1)
  flat = (len(prompts), chunks * model.max_tokens)
  return tokens.reshape(*flat, -1), mask.reshape(flat), embeddings[first]


def encode_images(
  model: ClipModel,
  images: types.Arrays,
  *,
  penultimate: bool = False,
  batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
  """Encodes grey images, uint8 [h w] or [h w 1] of any sizes.

  Args:
    penultimate: return the states before the last layer, which serves the class token
      alone. Models that look at patches take these (LLaVA, 2304.08485; IP-Adapter's
      fine-grained form, 2308.06721).
    batch_size: images in one call of the compiled function.

  Returns:
    tokens [n 1+g*g d] float32 (class token first, then patches in row-major order) and
    embedding [n p] float32 in the space shared with the text (not normalised).
  """
  if not len(images):
    raise ValueError("nothing to encode: got no images, expected at least one")
  pixels = clip_inputs.fit(images, model.pixels)
  function = model.patches_fn if penultimate else model.image_fn
  return _run(function, model.params, pixels, batch_size)


def fingerprint(model: ClipModel) -> str:
  """Returns 12 hexadecimal digits of the weights and the image settings."""
  return weights.fingerprint(model.params, repr(model.pixels))


def describe(model: ClipModel) -> str:
  """Returns a line for descriptions of what was made with the model."""
  # A stand-in is known by its weights: the folder's name says nothing elsewhere.
  label = "stand-in CLIP" if model.standin else f"CLIP {model.name}"
  return f"{label} {weights.millions(model.params)} {fingerprint(model)}"


def _run(
  function: Callable, params: types.Params, inputs: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Applies a compiled function to rows, in few different batch shapes."""
  tokens, embeddings = batches.in_batches(
    lambda rows: function(params, inputs[rows]), len(inputs), batch_size, powers=True
  )
  return tokens, embeddings
