"""Columns of a CLIP: run once over the records' prompts and images.

  texts --text encoder--> clip_text
  images --vision encoder--> clip_patches, clip_image

Each CLIP has a folder of its own beside the records, so that runs with different ones
do not undo each other's work.
"""

from collections.abc import Sequence
import functools
import pathlib

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import encoding
from cxr_diffusion_jax.encoders.clip import encoder as clip_encoder
from cxr_diffusion_jax.encoders.standin import training as standin

COLUMNS = (*clip_encoder.TEXT, *clip_encoder.IMAGES)


def spec(column: str, *, model: str = "", chunks: int = 1) -> conditioning.ColumnSpec:
  """Describes a column; see `EncoderModule.spec`.

  Raises:
    errors.InputError: no model is named, or its configuration cannot be reached.
  """
  if not model:
    raise errors.InputError(
      f"column {column} without a CLIP", "a folder, an id on the hub, or standin"
    )
  is_text = column in clip_encoder.TEXT
  return conditioning.ColumnSpec(
    name=column,
    encoder="clip",
    source="text" if is_text else "image",
    shape=clip_encoder.shapes(model, chunks)[column],
    model=model,
    chunks=chunks,
  )


def make(
  settings: DataSettings,
  records: records_lib.Records,
  specs: Sequence[conditioning.ColumnSpec],
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes columns of CLIPs where they are missing or stale.

  Raises:
    errors.InputError: a CLIP is not usable.
  """
  for model, chunks in dict.fromkeys((spec.model, spec.chunks) for spec in specs):
    group = [spec for spec in specs if (spec.model, spec.chunks) == (model, chunks)]
    place = group[0].location or model
    if place == conditioning.STANDIN:
      standin.train_clip(settings, records, progress)
      place = str(settings.standin_clip)
    open_fn = functools.cache(functools.partial(open_encoder, group[0], place, False))
    encoding.encode_columns(
      settings,
      records,
      group,
      open_fn,
      progress,
      description=_description(encoding.folder(settings, group[0]), place, open_fn),
    )


def open_encoder(
  spec: conditioning.ColumnSpec, place: str, standin: bool
) -> clip_encoder.ClipEncoder:
  """Opens a CLIP, a stand-in or not; see `EncoderModule.open_encoder`."""
  del standin
  return clip_encoder.load(place, chunks=spec.chunks)


def _description(target: pathlib.Path, place: str, open_fn) -> str:
  """The description of a CLIP, kept beside its columns so that none is loaded again."""
  mark, path = clip_encoder.mark(place), target / "encoder.json"
  if path.is_file():
    kept = artifacts.read_json(path)
    if kept["mark"] == mark:
      return kept["description"]
  description = open_fn().description
  artifacts.write_json(path, {"mark": mark, "description": description})
  return description
