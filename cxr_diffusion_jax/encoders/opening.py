"""Makes and opens a path's columns and the encoders that made them.

  Needs --make--> columns beside the records --open_columns--> Column
  column's description, run folder --open_encoder--> the same encoder

A run keeps its stand-in encoder in WORKDIR/encoders/, to encode a user's input without
the dataset. Another encoder than the one that the run was trained with is refused: its
embeddings would mean something else.
"""

from collections.abc import Iterator, Sequence
import contextlib
from typing import Protocol

from etils import epath

from cxr_diffusion_jax import artifacts, disk, errors, staging, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base, encoding

# Below a run's folder.
STANDIN_CLIP = "encoders/standin_clip"


class MadeBy(Protocol):
  """The fields shared by a column's description and a run's dataset card."""

  @property
  def encoder(self) -> str: ...

  @property
  def standin(self) -> bool: ...


def make(
  settings: DataSettings,
  records: records_lib.Records,
  needs: conditioning.Needs,
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes those of a path's columns that are missing or stale.

  Raises:
    errors.InputError: an encoder or an embedding file is not usable, or is missing.
  """
  for name in dict.fromkeys(spec.encoder for spec in needs.specs):
    specs = [spec for spec in needs.specs if spec.encoder == name]
    base.load(name).make(settings, records, specs, progress)


def parts(settings: DataSettings, needs: Sequence[conditioning.Needs]) -> set[str]:
  """What two processes must not make at once: columns, and stand-ins of several."""
  names = set()
  for spec in (spec for one in needs for spec in one.specs):
    standin = settings.standin or spec.model == conditioning.STANDIN
    names.add(spec.encoder if standin else f"{spec.encoder}-{spec.name}")
  return names


def open_columns(
  settings: DataSettings, needs: conditioning.Needs
) -> tuple[columns_lib.Column, ...]:
  """Opens a path's columns after `make`; raises like `base.check_shape`."""
  columns = []
  for spec in needs.specs:
    column = columns_lib.open_column(encoding.folder(settings, spec), spec.name)
    assert column is not None, f"`make` was not called for column {spec.name}"
    base.check_shape(spec, column.description.shape)
    columns.append(column)
  return tuple(columns)


def open_captions(
  settings: DataSettings,
  needs: conditioning.Needs,
  columns: Sequence[columns_lib.Column],
) -> dict[str, tuple[columns_lib.Column, ...]]:
  """Opens captions 1 and up of those columns that have them, after `make`.

  Embeddings that are files of the dataset have caption 0 alone; captions that another
  encoder made before are not read.
  """
  captions = {}
  for spec, column in zip(needs.specs, columns, strict=True):
    about, further = column.description, []
    for caption in range(1, encoding.num_captions(settings, spec)):
      name = encoding.caption_column(spec.name, caption)
      other = columns_lib.open_column(encoding.folder(settings, spec), name)
      if other is not None and other.description.encoder == about.encoder:
        further.append(other)
    if further and len(further) == encoding.num_captions(settings, spec) - 1:
      captions[spec.name] = tuple(further)
  return captions


def export(
  settings: DataSettings,
  columns: Sequence[columns_lib.Column],
  workdir: artifacts.PathLike,
) -> None:
  """Copies the stand-in encoder of a run's columns, if any, into the run's folder."""
  standin = any(column.description.standin for column in columns)
  if standin and settings.standin_clip.is_dir():
    with disk.reporting(workdir):
      artifacts.copy_files(settings.standin_clip, epath.Path(workdir) / STANDIN_CLIP)


def open_encoder(
  spec: conditioning.ColumnSpec,
  made_by: MadeBy,
  folders: Sequence[artifacts.PathLike],
) -> base.Encoder:
  """Opens the encoder that made a column.

  Args:
    spec: the column's spec; if it has a `location`, no other place is searched.
    made_by: the column's description, or its entry in the run's dataset card.
    folders: where a stand-in encoder may be; the first existing one is used.

  Raises:
    errors.InputError: the encoder is missing or is a different one.
  """
  module = base.load(spec.encoder)
  if made_by.standin and spec.model in ("", conditioning.STANDIN):
    places = [spec.location] if spec.location else folders
    with _standin_folder(spec, made_by, places) as standin_place:
      encoder = module.open_encoder(spec, standin_place, True)
  else:
    place = spec.location or spec.model
    encoder = module.open_encoder(spec, place, made_by.standin)
  base.check_same(spec.name, encoder.description, made_by.encoder)
  return encoder


@contextlib.contextmanager
def _standin_folder(
  spec: conditioning.ColumnSpec,
  made_by: MadeBy,
  folders: Sequence[artifacts.PathLike],
) -> Iterator[str]:
  """Yields a local folder with the stand-in while it is being loaded."""
  for folder in map(epath.Path, folders):
    if not (folder / artifacts.COPIED_LAST).exists():
      continue
    if not artifacts.is_remote(folder):
      yield str(folder)
      return
    with staging.temporary_folder(".cxr-encoder-") as copy:
      artifacts.copy_files(folder, copy)
      yield str(copy)
    return
  raise errors.InputError(
    f"the stand-in that made {spec.name} ({made_by.encoder}) is not in"
    f" {' or '.join(map(str, folders))}",
    "the folder of the run, or of its records",
    "take conditions of images with --image_ids, or train a new run",
  )
