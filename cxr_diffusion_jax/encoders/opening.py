"""The encoders that made a dataset's columns, opened again for what a user gives.

Dataset.columns --encoder's description--> the same CLIP, SavedModels or stand-in

An encoder that is not the one that the run was trained with is refused: its embeddings
would mean something else.
"""

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.clip import columns as clip_columns
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr_lib
from cxr_diffusion_jax.encoders.standin import encoder as standin_encoder
from cxr_diffusion_jax.run.dataset import Dataset


def open_encoder(
  settings: DataSettings,
  dataset: Dataset,
  name: str,
  *,
  elixr_models: str = elixr_saved_model.HUB_ID,
) -> encoder_lib.Encoder:
  """Opens the encoder that made a column.

  Args:
    settings: of the data.
    dataset: that has the column.
    name: of the column.
    elixr_models: folder or hub id of the SavedModels, for columns of published ELIXR
      embeddings. Files that this project did not write do not name their models, so
      that nothing can be compared.

  Raises:
    errors.InputError: it is not there, or it is another one.
  """
  (column,) = (c for c in dataset.columns if c.description.name == name)
  about = column.description
  if clip_columns.is_of_clip(name):
    encoder = clip_columns.load(settings, dataset.needs)
  elif about.standin:
    if not settings.standin_clip.is_dir():
      raise errors.InputError(
        f"the stand-in that made {name} ({about.encoder}) is not in"
        f" {settings.standin_clip}",
        "the folder of the run's own records",
        "take conditions of images with --image_ids, or prepare with --standin",
      )
    encoder = standin_encoder.StandinEncoder(
      model=clip_model.load(settings.standin_clip)
    )
  else:
    encoder = elixr_model.load(elixr_models)
  if elixr_lib.NAMELESS not in about.encoder:
    _check_same(encoder, about)
  return encoder


def _check_same(
  encoder: encoder_lib.Encoder, about: columns_lib.ColumnDescription
) -> None:
  if not about.encoder.startswith(encoder.description):
    raise errors.InputError(
      f"the encoder is {encoder.description}",
      f"{about.encoder}, which made the column {about.name} that the run learned from",
      "restore that encoder, or train a new run",
    )
