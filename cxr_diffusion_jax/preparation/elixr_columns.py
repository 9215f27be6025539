"""Columns of ELIXR embeddings: from the tree's own files, or from stand-ins.

ELIXR files of any form (or a stand-in CLIP --> files of form A) --> column
"""

from collections.abc import Sequence

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import columns as columns_lib
from cxr_diffusion_jax.data import elixr
from cxr_diffusion_jax.data import records as records_lib
from cxr_diffusion_jax.preparation import standin_tree
from cxr_diffusion_jax.preparation.data_settings import DataSettings


def make(
  settings: DataSettings,
  records: records_lib.Records,
  names: Sequence[str],
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes the columns of these kinds where they are missing or stale.

  Args:
    settings: of the data.
    records: of the tree.
    names: keys of `elixr.SHAPES`.
    progress: told during long work.

  Raises:
    errors.InputError: an embedding file is not usable, or the tree has none.
  """
  ids = {split: records.ids(split) for split in records.num_rows}
  wanted = columns_lib.ids_fingerprint(ids)
  for name in names:
    files = _find(settings, records, name, progress)
    column = columns_lib.open_column(records.folder, name)
    if columns_lib.is_fresh(column, wanted, files.fingerprint):
      continue
    columns_lib.write_column(
      records.folder,
      ids=ids,
      name=name,
      shape=files.shape,
      encoder=files.encoder,
      standin=files.standin,
      fingerprint=files.fingerprint,
      batches=files.batches,
      missing=settings.missing,
      progress=progress,
    )


def _find(
  settings: DataSettings,
  records: records_lib.Records,
  kind: str,
  progress: types.Progress,
) -> elixr.ElixrFiles:
  files = elixr.find_elixr(settings.root, kind)
  if files is None:
    files = elixr.find_elixr(settings.standin_root, kind)
  if files is None and settings.standin:
    standin_tree.write_elixr(settings, records, [kind], progress)
    files = elixr.find_elixr(settings.standin_root, kind)
  if files is None:
    raise errors.InputError(
      f"no {kind} embeddings in {settings.root}",
      "ELIXR files in one of the known forms, below elixrc/ or elixrb/",
      "`python -m cxr_diffusion_jax.prepare --config CONFIG` with --download elixr, or"
      " with --embed elixr where the models of google/cxr-foundation are, or with"
      " --standin for stand-ins trained on this tree",
    )
  return files
