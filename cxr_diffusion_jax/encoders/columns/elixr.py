"""Columns of ELIXR embeddings: of files in the dataset's folder, or of stand-ins.

ELIXR files of any form --> column        images, texts --stand-in CLIP--> column
"""

from collections.abc import Sequence
import functools

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.columns import writer as column_writer
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base, encoding
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.elixr import choice, saved_model
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr.files import reader
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES, TEXT_KINDS
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr
from cxr_diffusion_jax.encoders.standin import training as standin_training

COLUMNS = tuple(SHAPES)


def spec(column: str, *, model: str = "", chunks: int = 1) -> conditioning.ColumnSpec:
  """Describes a kind of embedding; `model` and `chunks` are ignored."""
  del model, chunks
  is_text = column in TEXT_KINDS
  return conditioning.ColumnSpec(
    name=column,
    encoder="elixr",
    source="text" if is_text else "image",
    shape=SHAPES[column],
  )


def make(
  settings: DataSettings,
  records: records_lib.Records,
  specs: Sequence[conditioning.ColumnSpec],
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes missing or stale columns: from ELIXR files, else with a stand-in encoder.

  Raises:
    errors.InputError: an embedding file is not usable, or the tree has none.
  """
  for spec in specs:
    files = reader.find_elixr(settings.root, spec.name)
    if settings.standin and (files is None or files.standin):
      standin_training.train_clip(settings, records, progress)
      files = None
    marker = standin_training.read_marker(settings.standin_clip)
    column = columns_lib.open_column(records.folder, spec.name)
    # `prepare --standin` asks for all commands that follow.
    asked = settings.standin or (column is not None and column.description.standin)
    if files is not None:
      _join(settings, records, files, progress)
    elif asked and marker:
      encoding.encode_columns(
        settings,
        records,
        [spec],
        lambda: standin_elixr.load(settings.standin_clip),
        progress,
        description=marker["encoder"],
      )
    else:
      others = ", ".join(choice.kinds_in(settings.root))
      raise errors.InputError(
        f"no {spec.name} embeddings in {settings.root}"
        + f", which has {others} for config.conditioning.kind" * bool(others),
        "ELIXR files in one of the known forms, below elixrc/ or elixrb/",
        "`python -m cxr_diffusion_jax.prepare --config CONFIG` with --download elixr,"
        " with --embed elixr where the models of google/cxr-foundation are, or with"
        " --standin for stand-ins trained on this tree",
      )


def _join(
  settings: DataSettings,
  records: records_lib.Records,
  files: reader.ElixrFiles,
  progress: types.Progress,
) -> None:
  """Makes the column of the embeddings in files."""
  encoding.refresh_column(
    records.folder,
    records,
    files.kind,
    files.fingerprint(records.folder / "elixr_files.json"),
    lambda _: functools.partial(
      column_writer.write_column,
      shape=files.shape,
      encoder=files.encoder,
      standin=files.standin,
      batches=files.batches,
      missing="drop" if settings.missing == "drop" else "error",
    ),
    progress,
  )


def open_encoder(
  spec: conditioning.ColumnSpec, place: str, standin: bool
) -> base.Encoder:
  """Opens the SavedModels, or a stand-in; see `EncoderModule.open_encoder`."""
  del spec
  if standin:
    # Whether it is the right one is checked before whether it fits.
    return standin_elixr.StandinEncoder(model=clip_model.load(place))
  return elixr_model.load(place or saved_model.HUB_ID)
