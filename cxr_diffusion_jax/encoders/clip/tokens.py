"""Prompts as rows of ids for CLIP's text model, and the tokenizer that makes them.

  prompt --tokenizer--> ids of its words --k windows of l - 2-->
    [start, words, end, padding] [k l]

A tokenizer is checked against the model that it comes with: CLIP reads a text's
embedding at the end token, and any id within its table has a meaning.
"""

from collections.abc import Sequence
import itertools
import pathlib
import textwrap
from typing import Any

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors

# From here on a tokenizer's maximal length means that none was set.
UNSET = 10**9


def load(loader: Any, folder: pathlib.Path, text_config: Any) -> Any:
  """Loads a folder's tokenizer with `loader`, transformers' AutoTokenizer; checks it.

  Raises:
    errors.InputError: files that cannot be read, or a tokenizer of another model.
  """
  try:
    tokenizer = loader.from_pretrained(folder)
  # `tokenizers` raises plain Exception or TypeError for damaged files.
  except Exception as error:
    raise errors.InputError(
      f"the tokenizer in {folder} cannot be read: {error}",
      "files as save_pretrained writes them",
      "copy them again",
    ) from error
  check(tokenizer, text_config, folder)
  return tokenizer


def check(tokenizer: Any, text_config: Any, folder: pathlib.Path) -> None:
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
  tokenizer: Any, prompts: Sequence[str], *, max_tokens: int, chunks: int
) -> tuple[np.ndarray, np.ndarray]:
  """Splits prompts into windows that are framed as prompts of their own.

  Args:
    tokenizer: a CLIP's.
    prompts: n texts; what does not fit is cut, and one warning names it.
    max_tokens: l, of a window, its start and end included.
    chunks: k, windows of a prompt.

  Returns:
    ids [n k l] int32 and mask [n k l] bool: True up to and including the end token; all
    False in windows without a word, other than the first.
  """
  if chunks < 1:
    raise ValueError(f"got {chunks} chunks; expected at least one")
  room = max_tokens - 2
  texts = tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
  _warn_of_cuts(tokenizer, texts, room, chunks)
  start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
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
  tokenizer: Any, texts: Sequence[Sequence[int]], room: int, chunks: int
) -> None:
  """Names how many texts were cut, and of the first of them what was lost."""
  kept = chunks * room
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
