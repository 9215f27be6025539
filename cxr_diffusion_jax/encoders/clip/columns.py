"""Columns of a CLIP: run once over the records' prompts and images.

  texts --text encoder--> clip_text
  images --vision encoder--> clip_patches, clip_image

Each CLIP has a folder of its own beside the records, so that runs with different ones
do not undo each other's work. An interrupted run goes on with the rows that lack.
"""

from collections.abc import Iterator
import hashlib
import json
import math
import pathlib

import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.clip import encoder as clip_encoder
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import record_prompts
from cxr_diffusion_jax.encoders.standin import tree as standin_tree

_BATCH = 64

# What a kill can cost. Counted in bytes alone, it would be all of a column of vectors.
_ROWS_AT_RISK = 512


def is_of_clip(name: str) -> bool:
  """Whether a column is made by a CLIP."""
  return name.startswith("clip_")


def location(settings: DataSettings, needs: conditioning.Needs) -> str:
  """The folder or hub id of the CLIP that a path names."""
  if needs.clip == conditioning.STANDIN:
    return str(settings.standin_clip)
  return needs.clip


def folder(settings: DataSettings, needs: conditioning.Needs) -> pathlib.Path:
  """Where the columns of this CLIP stand."""
  mark = hashlib.sha256(repr((needs.clip, needs.chunks)).encode()).hexdigest()[:8]
  return settings.records_folder / f"clip-{mark}"


def load(settings: DataSettings, needs: conditioning.Needs) -> clip_encoder.ClipEncoder:
  """Loads the CLIP of a path.

  Raises:
    errors.InputError: it is not there, or cannot be read.
  """
  return clip_encoder.ClipEncoder(
    model=clip_model.load(location(settings, needs)), chunks=needs.chunks
  )


def make(
  settings: DataSettings,
  records: records_lib.Records,
  needs: conditioning.Needs,
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes the columns of a path's CLIP where they are missing or stale.

  Args:
    settings: of the data.
    records: of the tree.
    needs: names CLIP and columns; other columns are passed over.
    progress: told during long work.

  Raises:
    errors.InputError: the CLIP is not usable.
  """
  names = [name for name in needs.columns if is_of_clip(name)]
  if not names:
    return
  if needs.clip == conditioning.STANDIN:
    standin_tree.train_clip(settings, records, progress)
  target = folder(settings, needs)
  mark = clip_encoder.mark(location(settings, needs))
  loaded: list[clip_encoder.ClipEncoder] = []

  def encoder() -> clip_encoder.ClipEncoder:
    if not loaded:
      loaded.append(load(settings, needs))
    return loaded[0]

  described = _described(target, mark)
  if described is None:
    described = encoder().description
    target.mkdir(parents=True, exist_ok=True)
    told = json.dumps({"mark": mark, "description": described})
    artifacts.write_text(target / "encoder.json", told + "\n")
  ids = {split: records.ids(split) for split in records.num_rows}
  wanted = columns_lib.ids_fingerprint(ids)
  for name in names:
    facts = [described, records.fingerprint]
    if name in encoder_lib.TEXT_COLUMNS:
      facts.append(record_prompts.fingerprint(settings, records))
    fingerprint = hashlib.sha256(repr(facts).encode()).hexdigest()
    column = columns_lib.open_column(target, name)
    if columns_lib.is_fresh(column, wanted, fingerprint):
      continue
    columns_lib.write_column(
      target,
      ids=ids,
      name=name,
      shape=encoder().shapes[name],
      encoder=described,
      standin=encoder().standin,
      fingerprint=fingerprint,
      batches=_Rows(settings, records, encoder(), name),
      progress=progress,
      flush_bytes=_ROWS_AT_RISK * 2 * math.prod(encoder().shapes[name]),
    )


def _described(target: pathlib.Path, mark: str) -> str | None:
  """The description of the CLIP whose files have this mark, if it was loaded before."""
  path = target / "encoder.json"
  if not path.is_file():
    return None
  told = json.loads(path.read_text(encoding="utf-8"))
  return told["description"] if told["mark"] == mark else None


class _Rows:
  """Called with the ids wanted (None: all): yields (ids [k], values [k *shape])."""

  def __init__(
    self,
    settings: DataSettings,
    records: records_lib.Records,
    encoder: encoder_lib.Encoder,
    name: str,
  ):
    self._settings, self._records = settings, records
    self._encoder, self._name = encoder, name

  def __call__(
    self, wanted: np.ndarray | None
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for split, count in self._records.num_rows.items():
      ids = self._records.ids(split)
      rows = np.arange(count)
      if wanted is not None:
        rows = rows[np.isin(ids, wanted)]
      if not len(rows):
        continue
      encode = self._text if self._name in encoder_lib.TEXT_COLUMNS else self._images
      for chosen, values in encode(split, rows):
        yield ids[chosen], values

  def _text(self, split: str, rows: np.ndarray):
    prompts = record_prompts.of_split(self._settings, self._records, split)
    for some in _batches(rows):
      made = self._encoder.encode_text([self._name], [prompts[row] for row in some])
      yield some, made[self._name]

  def _images(self, split: str, rows: np.ndarray):
    images = standin_tree.Images(self._records, split)
    for some in _batches(rows):
      squares = [images[int(row)][..., 0] for row in some]
      yield some, self._encoder.encode_images([self._name], squares)[self._name]


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
  for start in range(0, len(rows), _BATCH):
    yield rows[start : start + _BATCH]
