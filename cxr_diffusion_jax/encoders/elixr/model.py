"""Runs ELIXR itself, as Google published it: images and texts to all six embeddings.

  image -> PNG in a tf.train.Example -> elixr-c-v2-pooled -> elixrc [8 8 1376]
  elixrc, ids = paddings = 0         -> pax-elixr-b-text  -> img_emb, *contrastive_img*
  ids and paddings of a text, image_feature = 0 -> pax-elixr-b-text -> *txt_emb

Both are TensorFlow SavedModels of https://huggingface.co/google/cxr-foundation; inputs
are prepared as in that project's serving code (Xu et al., ELIXR, 2308.01317). All is
loaded when first needed: images need no tokenizer, and texts need no ELIXR-C. Outputs
are returned unchanged: `txt_emb` has values at padding too, as in the published files.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import io
import os
import pathlib
from types import MappingProxyType

from absl import logging
import numpy as np
from PIL import Image
import tokenizers

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import hub
from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES
from cxr_diffusion_jax.encoders.elixr.saved_model import IMAGE_MODEL, TEXT_MODEL
from cxr_diffusion_jax.parallel import batches

TOKENIZER = "google-bert/bert-base-uncased"

NUM_IDS = 128

# BERT-uncased's own: other vocabularies have another size, or these elsewhere.
_SIZE = 30522
_SPECIAL = MappingProxyType({"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElixrModel:
  """ELIXR as `base.Encoder`; opened by `load`, which explains the fields."""

  folder: pathlib.Path
  tokenizer: str = TOKENIZER
  batch_size: int = 4

  standin = False
  whole_images = True
  shapes = SHAPES

  @property
  def description(self) -> str:
    return self._description

  @functools.cached_property
  def _description(self) -> str:
    models = [
      f"{model} {elixr_saved_model.fingerprint(self.folder / model)}"
      for model in (IMAGE_MODEL, TEXT_MODEL)
      if elixr_saved_model.is_there(self.folder, model)
    ]
    return f"{elixr_saved_model.HUB_ID} {', '.join(models)}, 16-bit PNG"

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    """Makes text kinds; needs the Q-Former and the vocabulary; see `Encoder`."""
    ids, paddings, cut = tokenize(self._tokenizer, prompts)
    if cut:
      logging.warning(
        "%d of %d texts are longer than ELIXR's 128 tokens; cut off the first: %r",
        *(len(cut), len(prompts), cut[0]),
      )

    def encode(rows: np.ndarray) -> Mapping[str, np.ndarray]:
      nothing = np.zeros((len(rows), *SHAPES["elixrc"]), np.float32)
      outputs = self._q_former_fn(
        image_feature=nothing, ids=ids[rows], paddings=paddings[rows]
      )
      return {name: outputs[name] for name in columns}

    size = min(self.batch_size, len(prompts))
    return batches.in_batches(encode, len(prompts), size)

  def encode_images(
    self, columns: Sequence[str], images: Sequence[np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Makes image kinds; needs both models, or ELIXR-C for `elixrc`; see `Encoder`."""

    def encode(rows: np.ndarray) -> Mapping[str, np.ndarray]:
      pngs = [to_png(images[row]) for row in rows]
      examples = [elixr_saved_model.to_example(png) for png in pngs]
      maps = self._elixr_c_fn(input_example=np.array(examples, object))
      outputs = {"elixrc": maps["feature_maps_0"]}
      if set(columns) != {"elixrc"}:
        nothing = np.zeros((len(examples), 1, NUM_IDS), np.float32)
        outputs |= self._q_former_fn(
          image_feature=outputs["elixrc"],
          ids=nothing.astype(np.int32),
          paddings=nothing,
        )
      return {name: outputs[name] for name in columns}

    return batches.in_batches(encode, len(images), min(self.batch_size, len(images)))

  @functools.cached_property
  def _tokenizer(self) -> tokenizers.Tokenizer:
    return load_tokenizer(self.tokenizer)

  @functools.cached_property
  def _elixr_c_fn(self) -> elixr_saved_model.ModelFn:
    path = elixr_saved_model.find(self.folder, IMAGE_MODEL)
    return elixr_saved_model.load_model(
      path, ("input_example",), {"feature_maps_0": SHAPES["elixrc"]}
    )

  @functools.cached_property
  def _q_former_fn(self) -> elixr_saved_model.ModelFn:
    path = elixr_saved_model.find(self.folder, TEXT_MODEL)
    outputs = {kind: shape for kind, shape in SHAPES.items() if kind != "elixrc"}
    return elixr_saved_model.load_model(
      path, ("image_feature", "ids", "paddings"), outputs
    )


def load(
  folder_or_hub_id: str | os.PathLike = elixr_saved_model.HUB_ID,
  tokenizer: str | os.PathLike = "",
  *,
  batch_size: int = 4,
) -> ElixrModel:
  """Finds the models, downloading them where an id on the hub is given.

  Args:
    folder_or_hub_id: a folder that holds `elixr-c-v2-pooled`, `pax-elixr-b-text` or
      both, or an id such as `google/cxr-foundation`.
    tokenizer: vocab.txt of BERT-uncased, or a folder that has it, or an id; by
      default the one beside the models, else `TOKENIZER`.
    batch_size: images or texts in one call of a model, which sets the memory.

  Raises:
    InputError: neither model is there, or the hub does not give them.
  """
  folder = elixr_saved_model.resolve(folder_or_hub_id)
  beside = folder / "vocab.txt"
  return ElixrModel(
    folder=folder,
    tokenizer=os.fspath(tokenizer or (beside if beside.is_file() else TOKENIZER)),
    batch_size=batch_size,
  )


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
