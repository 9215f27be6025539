"""A new small CLIP: its tokenizer, its random parameters, and its folder.

  prompts --byte-pair merges--> tokenizer of CLIP's form, for any text
  sizes, tokenizer, seed --> ClipModel with random parameters --save--> folder

`clip.model.load` reads the folder as it does `openai/clip-vit-large-patch14`.
"""

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, staging, types
from cxr_diffusion_jax.encoders.clip import inputs as clip_inputs
from cxr_diffusion_jax.encoders.clip import model as clip_model

if TYPE_CHECKING:
  import transformers

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallClip:
  """Sizes of a small CLIP, in pixels and features; both transformers have one width.

  Attributes:
    embedding: width of the space that images and texts share.
    num_merges: of the tokenizer, at most, beyond the 512 byte tokens.
    max_tokens: of a prompt, start and end included, as CLIP has it.
  """

  image_size: int = 64
  patch_size: int = 8
  width: int = 128
  image_layers: int = 3
  text_layers: int = 2
  num_heads: int = 4
  embedding: int = 128
  num_merges: int = 512
  max_tokens: int = 77


def train_tokenizer(prompts: list[str], sizes: SmallClip) -> clip_inputs.Tokenizer:
  """Learns byte-pair merges (Sennrich et al., 1508.07909) from prompts.

  Every byte is in the vocabulary, within a word and at its end, so any text has ids.
  The end token is the last, as in CLIP, which reads the text's embedding there.
  """
  import tokenizers

  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  # Lower-casing and the splitting into words are taken from CLIP's own tokenizer.
  steps = _tokenizer(alphabet, [], sizes.max_tokens).backend_tokenizer
  learner = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix=WORD_END))
  learner.normalizer = steps.normalizer
  learner.pre_tokenizer = steps.pre_tokenizer
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=2 * len(alphabet) + sizes.num_merges,
    initial_alphabet=alphabet,
    end_of_word_suffix=WORD_END,
    show_progress=False,
  )
  learner.train_from_iterator(prompts, trainer)
  learned = json.loads(learner.to_str())["model"]["merges"]
  merges = [tuple(pair) for pair in learned][: sizes.num_merges]
  return _tokenizer(alphabet, merges, sizes.max_tokens)


def create(
  generator: np.random.Generator,
  *,
  sizes: SmallClip,
  tokenizer: clip_inputs.Tokenizer,
  pixel_mean: float,
  pixel_std: float,
) -> clip_model.ClipModel:
  """Makes a CLIP with random parameters, marked as a stand-in.

  `pixel_mean` and `pixel_std` are of the images that it will see, in [0, 1].
  """
  values = configuration(sizes)
  values["text_config"] |= {"vocab_size": len(tokenizer)} | {
    name: getattr(tokenizer, name)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id")
  }
  config = clip_model.library().CLIPConfig(**values)
  pixels = clip_inputs.PixelSettings(
    size=sizes.image_size,
    crop=sizes.image_size,
    mean=(pixel_mean, pixel_mean, pixel_mean),
    std=(pixel_std, pixel_std, pixel_std),
  )
  return clip_model.assemble(
    name="stand-in",
    config=config,
    params=_random_params(generator, config),
    tokenizer=tokenizer,
    pixels=pixels,
  )


def configuration(sizes: SmallClip) -> artifacts.Json:
  """CLIPConfig's arguments, with the mark `standin` that config.json keeps."""
  layers = dict(
    hidden_size=sizes.width,
    intermediate_size=4 * sizes.width,
    num_attention_heads=sizes.num_heads,
    projection_dim=sizes.embedding,
  )
  return dict(
    text_config=dict(
      layers,
      num_hidden_layers=sizes.text_layers,
      max_position_embeddings=sizes.max_tokens,
    ),
    vision_config=dict(
      layers,
      num_hidden_layers=sizes.image_layers,
      image_size=sizes.image_size,
      patch_size=sizes.patch_size,
    ),
    projection_dim=sizes.embedding,
    standin=True,
  )


def save(model: clip_model.ClipModel, folder: pathlib.Path) -> None:
  """Writes configuration, weights, tokenizer and image settings (save_pretrained)."""
  transformers = clip_model.library()
  # The Flax class warns that transformers 5 has no Flax; requirements.txt pins 4.
  before = transformers.logging.get_verbosity()
  transformers.logging.set_verbosity_error()
  try:
    flax_model = transformers.FlaxCLIPModel(model.config, _do_init=False)
    flax_model.save_pretrained(folder, params=model.params)
  finally:
    transformers.logging.set_verbosity(before)
  side = {"height": model.pixels.crop, "width": model.pixels.crop}
  processor = transformers.CLIPImageProcessor(
    size={"shortest_edge": model.pixels.size},
    crop_size=side,
    image_mean=list(model.pixels.mean),
    image_std=list(model.pixels.std),
  )
  transformers.CLIPProcessor(processor, model.tokenizer).save_pretrained(folder)


def _tokenizer(
  alphabet: list[str], merges: list[tuple[str, str]], max_tokens: int
) -> clip_inputs.Tokenizer:
  """Builds a CLIPTokenizerFast from CLIP's own two files, written to a scratch folder.

  So normalizer, suffixes and special tokens are transformers' own.
  """
  # CLIP's order: bytes, bytes that end a word, merges, the two special tokens.
  words = [*alphabet, *(byte + WORD_END for byte in alphabet)]
  words += dict.fromkeys("".join(pair) for pair in merges)
  words += [START, END]
  lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
  with staging.temporary_folder(".cxr-tokenizer-") as folder:
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocabulary = json.dumps({word: i for i, word in enumerate(words)})
    (folder / "vocab.json").write_text(vocabulary, encoding="utf-8")
    # Named, or transformers takes the folder for another kind and warns.
    config = json.dumps({"tokenizer_class": "CLIPTokenizer"})
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")
    return clip_model.library().CLIPTokenizerFast.from_pretrained(
      folder, model_max_length=max_tokens
    )


def _random_params(
  generator: np.random.Generator, config: "transformers.CLIPConfig"
) -> types.Params:
  """Draws parameters: weights with variance 1 / fan-in, embeddings at 0.02.

  The Flax class draws embeddings at 1, fifty times PyTorch's, and then learns slowly.
  """

  def draw(path, leaf):
    name = path[-1].key
    if name in ("embedding", "class_embedding"):
      array = 0.02 * generator.standard_normal(leaf.shape)
    elif name == "kernel":
      fan_in = np.prod(leaf.shape[:-1])
      array = generator.standard_normal(leaf.shape) / np.sqrt(fan_in)
    elif name == "logit_scale":
      array = np.full(leaf.shape, config.logit_scale_init_value)
    else:
      array = np.full(leaf.shape, float(name == "scale"))
    return jnp.asarray(array, jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, clip_model.parameter_shapes(config))
