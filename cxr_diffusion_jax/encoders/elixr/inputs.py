"""What ELIXR reads: PNGs of X-rays, and the ids of BERT-uncased's words.

  image [h w] -> contrast -> PNG              texts -> lower case -> WordPiece
     -> ids [n 1 128], paddings [n 1 128]; the end of the text counts as padding

Both follow CXR Foundation's serving code (predictor.py and data_processing), which is
what the published embeddings should be compared with.
"""

from collections.abc import Sequence
import io
import os
import pathlib
from types import MappingProxyType

import numpy as np
from PIL import Image
import tokenizers

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import hub

NUM_IDS = 128

# BERT-uncased's own: other vocabularies have another size, or these elsewhere.
_SIZE = 30522
_SPECIAL = MappingProxyType({"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102})


def to_png(image: np.ndarray) -> bytes:
  """Writes an X-ray [h w] uint8 or uint16 as a PNG of 16 bits, as ELIXR-C reads it.

  The darkest and the brightest value move to the ends of the image's own type: the file
  of an 8-bit image has values of 0 to 255.
  """
  if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
    raise ValueError(f"image {image.shape} {image.dtype}, not [h w] uint8 or uint16")
  top = np.iinfo(image.dtype).max
  table = np.interp(np.arange(top + 1), (image.min(), image.max()), (0, top))
  file = io.BytesIO()
  # These files are not kept: little compression is faster.
  Image.fromarray(table.astype(np.uint16)[image]).save(
    file, format="PNG", compress_level=1
  )
  return file.getvalue()


def load_tokenizer(name: str | os.PathLike) -> tokenizers.Tokenizer:
  """Loads BERT-uncased's vocab.txt: of a file, a folder that has it, or a hub id.

  Raises:
    InputError: it is not there, or it is another vocabulary.
  """
  path = _find_vocabulary(str(name))
  # Only line ends separate words: some words are other kinds of white space.
  words = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
  ids = {word.rstrip("\r"): number for number, word in enumerate(words)}
  elsewhere = [word for word, number in _SPECIAL.items() if ids.get(word) != number]
  if elsewhere or len(words) != _SIZE:
    places = [f"{word} at {ids.get(word, 'no place')}" for word in elsewhere]
    raise errors.InputError(
      f"{path} has {', '.join([f'{len(words)} words', *places])}",
      f"{_SIZE} words, [CLS] at 101 and [SEP] at 102, as BERT-uncased has",
      "use vocab.txt of google-bert/bert-base-uncased",
    )
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
  )
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  tokenizer.post_processor = tokenizers.processors.BertProcessing(
    ("[SEP]", _SPECIAL["[SEP]"]), ("[CLS]", _SPECIAL["[CLS]"])
  )
  tokenizer.enable_truncation(NUM_IDS)
  tokenizer.enable_padding(length=NUM_IDS, pad_id=0, pad_token="[PAD]")
  return tokenizer


def tokenize(
  tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
  """Makes what the Q-Former reads of n texts, with a tokenizer of `load_tokenizer`.

  Returns:
    ids [n 1 128] int32; paddings [n 1 128] float32, 1 at padding; and of every text
    that is too long, what was cut off.
  """
  lowered = [text.lower() for text in texts]
  encodings = tokenizer.encode_batch(lowered)
  ids = np.array([one.ids for one in encodings], np.int32)
  paddings = 1 - np.array([one.attention_mask for one in encodings], np.float32)
  # The end mark is removed, the start mark stays.
  ends = ids == _SPECIAL["[SEP]"]
  ids[ends], paddings[ends] = 0, 1
  cut = tuple(
    text[one.offsets[NUM_IDS - 2][1] :].strip()
    for text, one in zip(lowered, encodings, strict=True)
    if one.overflowing
  )
  return ids[:, None], paddings[:, None], cut


def _find_vocabulary(name: str) -> pathlib.Path:
  """The vocab.txt that is meant, downloaded where `name` is an id on the hub."""

  def local(path: pathlib.Path) -> pathlib.Path | None:
    return next((one for one in (path, path / "vocab.txt") if one.is_file()), None)

  return hub.resolve(
    name,
    "vocabulary",
    "vocab.txt, its folder, or an id such as 'google-bert/bert-base-uncased'",
    "name a folder with vocab.txt",
    local=local,
    fetch=lambda: hub.download_file(name, "vocab.txt"),
  )
