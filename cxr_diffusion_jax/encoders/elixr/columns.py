"""Columns of ELIXR embeddings: from the tree's own files, or from stand-ins.

ELIXR files of any form (or a stand-in CLIP --> files of form A) --> column
"""

from collections.abc import Sequence

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.columns import writer as column_writer
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import record_prompts
from cxr_diffusion_jax.encoders.elixr import embed as elixr_embed
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
from cxr_diffusion_jax.encoders.elixr.files import file as elixr_file
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr

COLUMNS = tuple(elixr.SHAPES)


def spec(column: str, *, model: str = "", chunks: int = 1) -> conditioning.ColumnSpec:
  """Describes a kind of embedding; `model` and `chunks` are ignored."""
  del model, chunks
  is_text = column in elixr_file.TEXT_KINDS
  return conditioning.ColumnSpec(
    name=column,
    encoder="elixr",
    source="text" if is_text else "image",
    shape=elixr.SHAPES[column],
  )


def make(
  settings: DataSettings,
  records: records_lib.Records,
  specs: Sequence[conditioning.ColumnSpec],
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes columns from the dataset's ELIXR files if they are missing or stale.

  Raises:
    errors.InputError: an embedding file is not usable, or the tree has none.
  """
  ids = {split: records.ids(split) for split in records.num_rows}
  ids_fingerprint = columns_lib.ids_fingerprint(ids)
  for spec in specs:
    files = _find(settings, records, spec.name, progress)
    column = columns_lib.open_column(records.folder, spec.name)
    fingerprint = files.fingerprint(records.folder / "elixr_files.json")
    if columns_lib.is_fresh(column, ids_fingerprint, fingerprint):
      continue
    column_writer.write_column(
      records.folder,
      ids=ids,
      name=spec.name,
      shape=files.shape,
      encoder=files.encoder,
      standin=files.standin,
      fingerprint=fingerprint,
      batches=files.batches,
      missing="drop" if settings.missing == "drop" else "error",
      progress=progress,
    )


def open_encoder(
  spec: conditioning.ColumnSpec, place: str, standin: bool
) -> base.Encoder:
  """Opens the SavedModels, or a stand-in; see `EncoderModule.open_encoder`."""
  del spec
  if standin:
    return standin_elixr.StandinEncoder(model=clip_model.load(place))
  return elixr_model.load(place or elixr_saved_model.HUB_ID)


def embed(
  settings: DataSettings,
  names: Sequence[str],
  needs: conditioning.Needs,
  encoder: base.Encoder,
  progress: types.Progress = types.no_progress,
) -> tuple[str, ...]:
  """Makes missing embedding files in the tree; see `elixr_embed.embed`.

  `names` are keys of `elixr.SHAPES`; 'elixr' means those that the path needs, or all
  where it needs none.

  Raises:
    errors.InputError: an unknown name, or see `elixr_embed.embed`.
  """
  unknown = sorted(set(names) - {"elixr", *elixr.SHAPES})
  if unknown:
    raise errors.InputError(
      f"--embed {unknown[0]}", f"elixr, or some of {', '.join(sorted(elixr.SHAPES))}"
    )
  kinds = [name for name in names if name != "elixr"]
  if "elixr" in names:
    kinds += [name for name in needs.columns if name in elixr.SHAPES] or elixr.SHAPES
  prompts = None
  if set(kinds) & set(elixr_file.TEXT_KINDS):
    records = records_lib.prepare_records(settings.record_settings(), progress=progress)
    prompts = {
      str(name): text
      for split in records.num_rows
      for name, text in zip(
        records.ids(split),
        record_prompts.of_split(settings, records, split),
        strict=True,
      )
    }
  return elixr_embed.embed(
    settings.root,
    list(dict.fromkeys(kinds)),
    encoder,
    prompts=prompts,
    progress=progress,
  )


def _is_stale(
  settings: DataSettings, records: records_lib.Records, files: elixr.ElixrFiles
) -> bool:
  """Whether stand-ins were made from prompts other than the present settings'."""
  mark = standin_elixr.prompts_mark(settings, records)
  of_text = files.kind in elixr_file.TEXT_KINDS and ", prompts " in files.encoder
  return files.standin and of_text and mark not in files.encoder


def _find(
  settings: DataSettings,
  records: records_lib.Records,
  kind: str,
  progress: types.Progress,
) -> elixr.ElixrFiles:
  files = elixr.find_elixr(settings.root, kind)
  if files is None or files.standin:
    # A phantom tree may hold stand-ins of another size: prefer those of this size.
    own = elixr.find_elixr(settings.standin_root, kind)
    if settings.standin and (own is None or _is_stale(settings, records, own)):
      standin_elixr.write_elixr(settings, records, [kind], progress)
      own = elixr.find_elixr(settings.standin_root, kind)
    files = own or files
  if files is None:
    raise errors.InputError(
      f"no {kind} embeddings in {settings.root}",
      "ELIXR files in one of the known forms, below elixrc/ or elixrb/",
      "`python -m cxr_diffusion_jax.prepare --config CONFIG` with --download elixr, or"
      " with --embed elixr where the models of google/cxr-foundation are, or with"
      " --standin for stand-ins trained on this tree",
    )
  return files
