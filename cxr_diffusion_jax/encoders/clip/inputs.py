"""What CLIP reads: rows of ids of a prompt, and squares of an image.

  prompt --tokenizer--> ids of its words --k windows of l - 2-->
    [start, words, end, padding] [k l]
  grey uint8 [h w] --bicubic, antialiased--> shorter side = size
    --central square--> uint8 [crop crop 1]

Scaling by mean and standard deviation, and repeating to three channels, follow inside
the compiled function: bytes are cheaper to move than three floats a pixel.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import pathlib
import textwrap
from typing import TYPE_CHECKING, Any, TypeAlias

from absl import logging
import numpy as np
from PIL import Image

from cxr_diffusion_jax import errors, types

if TYPE_CHECKING:
  import transformers

# transformers' fast tokenizer, whose own annotations are too wide to check.
Tokenizer: TypeAlias = Any

# From here on a tokenizer's maximal length means that none was set.
UNSET = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelSettings:
  """What a CLIP's processor does to an image.

  Attributes:
    size: the shorter side after resizing (bicubic, antialiased), in pixels.
    crop: side of the central square that the vision model sees, in pixels.
    mean: of each channel, for values in [0, 1]; so is `std`.
  """

  size: int
  crop: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


def read_pixels(processor: Any, config: "transformers.CLIPConfig") -> PixelSettings:
  """Reads the settings of transformers' CLIPImageProcessor.

  Raises:
    errors.InputError: it makes images of another size than the model of `config` takes,
      or scales them by no numbers.
    TypeError, ValueError: values of another type.
  """
  crop = config.vision_config.image_size
  size = processor.size.get("shortest_edge", processor.size.get("height"))
  cropped = processor.crop_size.get("height") if processor.do_center_crop else size
  if cropped != crop or size < crop:
    raise errors.InputError(
      f"preprocessor_config.json makes images of {cropped} pixels from {size}",
      f"{crop} pixels, as config.json says",
      "take both files from the same model",
    )
  scales = np.asarray([processor.image_mean, processor.image_std], np.float32)
  if scales.shape != (2, 3) or not (np.isfinite(scales).all() and scales[1].all()):
    raise errors.InputError(
      f"preprocessor_config.json has image_mean and image_std {scales.tolist()}",
      "three numbers each, image_std not 0",
      "copy it again",
    )
  return PixelSettings(
    size=size,
    crop=crop,
    mean=tuple(processor.image_mean),
    std=tuple(processor.image_std),
  )


def fit(images: types.Arrays, settings: PixelSettings) -> np.ndarray:
  """Resizes the shorter side and crops the centre, as CLIP's processor does.

  n images uint8 [h w] or [h w 1] of any sizes become [n crop crop 1] uint8.
  """
  return np.stack([_fit(image, settings) for image in images])


def _fit(image: np.ndarray, settings: PixelSettings) -> np.ndarray:
  if image.dtype != np.uint8 or image.shape[2:] not in ((), (1,)):
    raise ValueError(
      f"got {image.dtype} {image.shape}; expected uint8 [h w] or [h w 1]"
    )
  height, width = image.shape[:2]
  grey, short = image.reshape(height, width), min(height, width)
  # The longer side is rounded down, as the processor does.
  height, width = (side * settings.size // short for side in (height, width))
  if grey.shape != (height, width):
    resized = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)
    grey = np.asarray(resized, np.uint8)
  top, left = (height - settings.crop) // 2, (width - settings.crop) // 2
  return grey[top : top + settings.crop, left : left + settings.crop, None]


def load_tokenizer(
  loader: "type[transformers.AutoTokenizer]",
  folder: pathlib.Path,
  text_config: "transformers.CLIPTextConfig",
) -> Tokenizer:
  """Loads a folder's tokenizer with `loader`, transformers' AutoTokenizer; checks it.

  Raises:
    errors.InputError: files that cannot be read, or a tokenizer of another model.
  """
  tokenizer = read_tokenizer(loader, folder)
  check_tokenizer(tokenizer, text_config, folder)
  return tokenizer


def read_tokenizer(
  loader: "type[transformers.AutoTokenizer | transformers.PreTrainedTokenizerFast]",
  folder: pathlib.Path,
) -> Tokenizer:
  """Reads a folder's tokenizer with a class of transformers.

  Raises:
    errors.InputError: files that cannot be read.
  """
  try:
    return loader.from_pretrained(folder)
  # `tokenizers` raises plain Exception or TypeError for damaged files.
  except Exception as error:
    raise errors.InputError(
      f"the tokenizer in {folder} cannot be read: {error}",
      "files as save_pretrained writes them",
      "copy them again",
    ) from error


def check_tokenizer(
  tokenizer: Tokenizer,
  text_config: "transformers.CLIPTextConfig",
  folder: pathlib.Path,
) -> None:
  """Raises InputError unless a tokenizer is of the text model's vocabulary."""
  vocabulary, end = text_config.vocab_size, text_config.eos_token_id
  if end == 2:
    # Configurations from before 2023 say 2, and transformers then pools at the largest
    # id of a prompt; it is the end token only where that comes last of the vocabulary.
    end = vocabulary - 1
  length = text_config.max_position_embeddings
  cuts_at = tokenizer.model_max_length
  if len(tokenizer) > vocabulary:
    got, expected = f"has {len(tokenizer)} ids", f"at most {vocabulary}, by config.json"
  elif tokenizer.eos_token_id != end:
    got = f"ends a text with id {tokenizer.eos_token_id}"
    expected = f"{end}, where the text model reads the embedding"
  elif tokenizer.bos_token_id is None:
    got, expected = "has no start token", "one, as CLIP's has"
  elif cuts_at != length and cuts_at < UNSET:
    got, expected = f"cuts at {cuts_at} tokens", f"{length}, as config.json has it"
  else:
    return
  raise errors.InputError(
    f"the tokenizer {got} in {folder}",
    expected,
    "take model and tokenizer from one place",
  )


def windows(
  tokenizer: Tokenizer,
  prompts: Sequence[str],
  *,
  max_tokens: int,
  chunks: int,
  frame: tuple[int, int] | None = None,
  unit: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Splits prompts into windows that are framed as prompts of their own.

  Args:
    tokenizer: a CLIP's, or another one with a `frame`.
    prompts: n texts; what does not fit is cut, and one warning names it.
    max_tokens: l, of a window, its start and end included.
    chunks: k, windows of a prompt.
    frame: ids of start and end; None for the tokenizer's.
    unit: tokens that one more of `config.conditioning.chunks` would add, for the
      warning; 0 for `max_tokens`.

  Returns:
    ids [n k l] int32 and mask [n k l] bool: True up to and including the end token; all
    False in windows without a word, other than the first.
  """
  if chunks < 1:
    raise ValueError(f"got {chunks} chunks; expected at least one")
  room = max_tokens - 2
  texts = tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
  _warn_of_cuts(tokenizer, texts, chunks * room, (unit or max_tokens) - 2)
  start, end = frame or (tokenizer.bos_token_id, tokenizer.eos_token_id)
  padding = tokenizer.pad_token_id
  shape = (len(prompts), chunks, max_tokens)
  ids = np.full(shape, end if padding is None else padding, np.int32)
  mask = np.zeros(shape, bool)
  for (row, text), chunk in itertools.product(enumerate(texts), range(chunks)):
    words = text[chunk * room : (chunk + 1) * room]
    if words or chunk == 0:
      ids[row, chunk, : len(words) + 2] = [start, *words, end]
      mask[row, chunk, : len(words) + 2] = True
  return ids, mask


def _warn_of_cuts(
  tokenizer: Tokenizer,
  texts: Sequence[Sequence[int]],
  kept: int,
  room: int,
) -> None:
  """Warns how many texts were cut, and what the first of them lost."""
  cut = [row for row, text in enumerate(texts) if len(text) > kept]
  if not cut:
    return
  lost = texts[cut[0]][kept:]
  tail = textwrap.shorten(tokenizer.decode(lost), 120, placeholder=" ...")
  logging.warning(
    "%d of %d prompts were cut at %d tokens; the first is prompt %d, which lost %d: %r;"
    " %d chunks would keep all",
    len(cut),
    len(texts),
    kept,
    cut[0],
    len(lost),
    tail,
    max(-(-len(text) // room) for text in texts),
  )
