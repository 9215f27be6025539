"""Images of several sources, from the records that each source has alone.

row of the joined table --source, id--> row of its records, if the file is the same
  --> square [s s] uint8, which is not decoded again
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from cxr_diffusion_jax import checked_files
from cxr_diffusion_jax.data.records import plan as plan_lib
from cxr_diffusion_jax.data.records import store
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import base

# (row of the table, size and time of its file) -> square, None where it is to be read.
SquareFn = Callable[[int, int, int], np.ndarray | None]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Single:
  """Records of one source: id -> (split, row, size and time of its file)."""

  name: str
  rows: dict[str, tuple[str, int, int, int]]
  sources: dict[str, store.RecordSource]


def open_squares(table: base.Table, settings: DataSettings) -> SquareFn:
  """Opens the records of single sources that are of the same size and resizing.

  A file counts as the same if its size and the time of its last change are.
  """
  singles = []
  if table.source is not None:
    modules = settings.source.split("+")
    for name, module, root in zip(
      settings.source_names, modules, settings.roots, strict=True
    ):
      single = dataclasses.replace(settings, source=module, root=root)
      singles.append(_open(name, single))

  def square(row: int, size: int, time: int) -> np.ndarray | None:
    single = singles[int(table.source[row])] if table.source is not None else None
    if single is None or not size:
      return None
    image_id = str(table.id[row])
    known = single.rows.get(image_id)
    if known is None:
      known = single.rows.get(image_id.removeprefix(f"{single.name}-"))
    if known is None or known[2:] != (size, time):
      return None
    split, place, *_ = known
    return single.sources[split][place]["image"][:, :, 0]

  return square


def _open(name: str, settings: DataSettings) -> _Single | None:
  folder = settings.records_folder
  if not (folder / "records.json").is_file() or not (folder / "files.npz").is_file():
    return None
  description = checked_files.read_json(folder / "records.json")
  mark = plan_lib.settings_hash(settings)
  if description["format"] != plan_lib.FORMAT:
    return None
  if description["fingerprints"]["settings"] != mark:
    return None
  records = store.of_description(folder, description)
  splits = [split for split, count in records.num_rows.items() if count]
  rows = [
    (image_id, split, row)
    for split in splits
    for row, image_id in enumerate(records.ids(split).tolist())
  ]
  files = checked_files.read_npz(folder / "files.npz")
  # Of files that could be read, in the order of rows.
  read = files["pixels"] != 0
  sizes, times = files["size"][read].tolist(), files["time"][read].tolist()
  if len(sizes) != len(rows):
    return None
  return _Single(
    name=name,
    rows={
      image_id: (split, row, size, time)
      for (image_id, split, row), size, time in zip(rows, sizes, times, strict=True)
    },
    sources={split: store.RecordSource(records, split) for split in splits},
  )
