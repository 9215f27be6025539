"""Columns of a BERT, computed from the prompts of the records or a user.

  bert_text [k*l d]  last hidden state of k windows, zeros where the mask is False
  bert_cls  [k d]    that of the first token of each window, zeros for unused windows

Each BERT has its own folder beside the records. The stand-in is the text half of the
stand-in CLIP, whose `bert_cls` is the text in the space shared with images.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib

import einops
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.conditioning import base, bert_text
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders import encoding, named
from cxr_diffusion_jax.encoders.bert import files as bert_files
from cxr_diffusion_jax.encoders.bert import model as bert_model
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import small as clip_small

COLUMNS = ("bert_text", "bert_cls")


def spec(column: str, *, model: str = "", chunks: int = 1) -> base.ColumnSpec:
  """Describes a column; see `EncoderModule.spec`.

  Raises:
    errors.InputError: no model is named, or its configuration cannot be reached.
  """
  if not model:
    raise errors.InputError(
      f"column {column} without a BERT", "a folder, an id on the hub, or standin"
    )
  return base.ColumnSpec(
    name=column,
    encoder="bert",
    source="text",
    shape=shapes(model, chunks)[column],
    model=model,
    chunks=chunks,
  )


def make(
  settings: DataSettings,
  records: records_lib.Records,
  specs: Sequence[base.ColumnSpec],
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes columns of BERTs where they are missing or stale.

  Raises:
    errors.InputError: a BERT is not usable.
  """
  named.make_columns(
    settings, records, specs, open_encoder, bert_files.resolve, progress
  )


def open_encoder(
  spec: base.ColumnSpec, place: str, standin: bool
) -> encoder_lib.Encoder:
  """Opens a BERT or a stand-in; see `EncoderModule.open_encoder`."""
  if standin:
    return StandinEncoder(model=clip_model.load(place), chunks=spec.chunks)
  return BertEncoder(model=bert_model.load(place), chunks=spec.chunks)


def shapes(name: str, chunks: int = 1) -> dict[str, tuple[int, ...]]:
  """Returns the shape of one row of each column, without reading weights.

  Args:
    name: "standin", a folder, or an id on the hub, of which config.json alone is
      fetched; `bert_text.DEFAULT` needs no file.
    chunks: multiples of 128 tokens.

  Raises:
    errors.InputError: no such folder, an id out of reach, or no BERT.
  """
  if name == base.STANDIN:
    sizes = clip_small.SmallClip()
    return _standin_shapes(sizes.max_tokens, sizes.width, sizes.embedding, chunks)
  # CXR-BERT's sizes are BERT's defaults.
  config: artifacts.JsonMapping = {}
  if name != bert_text.DEFAULT:
    path = bert_files.find_config(name)
    config = bert_files.read_config(path)
    if pathlib.Path(name).is_dir():
      # Before any long work; of an id, the other files may not be here yet.
      bert_files.check(path.parent)
  return _shapes(bert_files.positions(config), config.get("hidden_size", 768), chunks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertEncoder:
  """A BERT as `base.Encoder`, for prompts of `chunks` x 128 tokens."""

  model: bert_model.BertModel
  chunks: int = 1

  standin = False
  whole_images = False

  @property
  def description(self) -> str:
    return self._description

  # Cached, because it hashes all weights.
  @functools.cached_property
  def _description(self) -> str:
    chunks = f", {self.chunks} chunks" if self.chunks > 1 else ""
    return f"{bert_model.describe(self.model)}{chunks}"

  @property
  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    model = self.model
    return _shapes(model.positions, model.config.hidden_size, self.chunks)

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    """Encodes prompts; zeros where there is no token; see `base.Encoder`.

    Raises:
      errors.InputError: a state that is not finite or that float16 cannot hold.
    """
    if not columns:
      return {}
    states, mask = bert_model.encode(self.model, prompts, chunks=self.chunks)
    states *= mask[..., None]
    values = {
      "bert_text": einops.rearrange(states, "n k l d -> n (k l) d"),
      "bert_cls": states[:, :, 0],
    }
    return encoding.checked({name: values[name] for name in columns}, self.model.name)

  def encode_images(
    self, columns: Sequence[str], images: types.Arrays
  ) -> dict[str, np.ndarray]:
    """A BERT sees no images."""
    del columns, images
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandinEncoder:
  """The text half of the stand-in CLIP, in place of a BERT."""

  model: clip_model.ClipModel
  chunks: int = 1

  standin = True
  whole_images = False

  @property
  def description(self) -> str:
    return clip_model.describe(self.model)

  @property
  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    config = self.model.config
    return _standin_shapes(
      self.model.max_tokens,
      config.text_config.hidden_size,
      config.projection_dim,
      self.chunks,
    )

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    if not columns:
      return {}
    tokens, mask, embedding = clip_model.encode_text(
      self.model, prompts, chunks=self.chunks
    )
    values = {"bert_text": tokens * mask[..., None], "bert_cls": embedding[:, None]}
    return {name: values[name] for name in columns}

  def encode_images(
    self, columns: Sequence[str], images: types.Arrays
  ) -> dict[str, np.ndarray]:
    del columns, images
    return {}


def _shapes(positions: int, width: int, chunks: int) -> dict[str, tuple[int, ...]]:
  num, length = bert_model.windows(positions, chunks)
  return {"bert_text": (num * length, width), "bert_cls": (num, width)}


def _standin_shapes(
  max_tokens: int, width: int, embedding: int, chunks: int
) -> dict[str, tuple[int, ...]]:
  return {"bert_text": (chunks * max_tokens, width), "bert_cls": (1, embedding)}
