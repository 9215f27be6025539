"""Columns of models that the user names: by a folder, an id on the hub, or `standin`.

specs --by model and windows--> the model's folder --open--> columns
"""

from collections.abc import Callable, Sequence
import functools
import pathlib

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base, encoding, weights
from cxr_diffusion_jax.encoders.standin import training as standin_training


def make_columns(
  settings: DataSettings,
  records: records_lib.Records,
  specs: Sequence[conditioning.ColumnSpec],
  open_encoder_fn: Callable[[conditioning.ColumnSpec, str, bool], base.Encoder],
  resolve_fn: Callable[[str], pathlib.Path],
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes columns where they are missing or stale, one model at a time.

  Args:
    open_encoder_fn: see `EncoderModule.open_encoder`.
    resolve_fn: a model's name -> its folder.

  Raises:
    errors.InputError: a model is not usable.
  """
  for model, chunks in dict.fromkeys((spec.model, spec.chunks) for spec in specs):
    group = [spec for spec in specs if (spec.model, spec.chunks) == (model, chunks)]
    place = group[0].location or model
    standin = place == conditioning.STANDIN
    if standin:
      standin_training.train_clip(settings, records, progress)
      place = str(settings.standin_clip)
    folder = settings.standin_clip if standin else resolve_fn(place)
    open_fn = functools.cache(
      functools.partial(open_encoder_fn, group[0], place, standin)
    )
    encoding.encode_columns(
      settings,
      records,
      group,
      open_fn,
      progress,
      description=encoding.kept_description(
        encoding.folder(settings, group[0]), weights.mark(folder), open_fn
      ),
    )
