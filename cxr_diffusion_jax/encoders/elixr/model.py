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
import os
import pathlib
from typing import TYPE_CHECKING

from absl import logging
import numpy as np

from cxr_diffusion_jax.encoders.elixr import inputs as elixr_inputs
from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES, TEXT_KINDS
from cxr_diffusion_jax.encoders.elixr.saved_model import IMAGE_MODEL, TEXT_MODEL
from cxr_diffusion_jax.parallel import batches

if TYPE_CHECKING:
  import tokenizers

TOKENIZER = "google-bert/bert-base-uncased"


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
    _check(columns, prompts, [kind for kind in SHAPES if kind in TEXT_KINDS])
    ids, paddings, cut = elixr_inputs.tokenize(self._tokenizer, prompts)
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
    _check(columns, images, [kind for kind in SHAPES if kind not in TEXT_KINDS])

    def encode(rows: np.ndarray) -> Mapping[str, np.ndarray]:
      pngs = [elixr_inputs.to_png(images[row]) for row in rows]
      examples = [elixr_saved_model.to_example(png) for png in pngs]
      maps = self._elixr_c_fn(input_example=np.array(examples, object))
      outputs = {"elixrc": maps["feature_maps_0"]}
      if set(columns) != {"elixrc"}:
        nothing = np.zeros((len(examples), 1, elixr_inputs.NUM_IDS), np.float32)
        outputs |= self._q_former_fn(
          image_feature=outputs["elixrc"],
          ids=nothing.astype(np.int32),
          paddings=nothing,
        )
      return {name: outputs[name] for name in columns}

    return batches.in_batches(encode, len(images), min(self.batch_size, len(images)))

  @functools.cached_property
  def _tokenizer(self) -> "tokenizers.Tokenizer":
    return elixr_inputs.load_tokenizer(self.tokenizer)

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


def _check(columns: Sequence[str], inputs: Sequence, known: Sequence[str]) -> None:
  if not columns or set(columns) - set(known) or not len(inputs):
    raise ValueError(f"{columns} of {len(inputs)} inputs; makes {known} of 1 or more")
