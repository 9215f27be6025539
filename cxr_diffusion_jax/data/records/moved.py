"""Which folder of records a moved dataset keeps: one that holds its images.

folders of the same name whose dataset is gone --ids, pixels--> the dataset's, or none
"""

import contextlib
import dataclasses
import pathlib
import secrets

import numpy as np

from cxr_diffusion_jax import checked_files, disk, errors
from cxr_diffusion_jax.data import dataset_table, images, splits
from cxr_diffusion_jax.data.records import files as files_lib
from cxr_diffusion_jax.data.records import parts as parts_lib
from cxr_diffusion_jax.data.settings import DataSettings


def settle(settings: DataSettings) -> None:
  """Decides on a dataset's folder, before anything is written to it.

  Another folder of its name becomes the dataset's if most of the images there are its
  own. Otherwise it is of another dataset, which is only not mounted, and stays.

  Raises:
    InputError: the table is not usable, or the dataset's own folder cannot be made.
  """
  *gone, own = settings.possible_folders
  if not gone or not settings.exists:
    return
  for folder in gone:
    if any(_is_same(settings, path.parent) for path in folder.glob("[0-9]*/rows.npz")):
      # Optional: the disk may be read-only.
      with contextlib.suppress(OSError):
        claim(settings, folder)
      return
  other = "name another --config.data.records_dir"
  with disk.reporting(own, making=True, instead=other):
    own.mkdir(parents=True, exist_ok=True)


def claim(settings: DataSettings, folder: pathlib.Path) -> None:
  """Notes in the folder of a dataset where the dataset is now."""
  # Hosts may do so at the same time: each writes a file of its own first.
  note = folder / f"root-{secrets.token_hex(4)}.json"
  checked_files.write_json(note, {"root": settings.location})
  note.replace(folder / "root.json")


def _is_same(settings: DataSettings, folder: pathlib.Path) -> bool:
  """Whether most of a sample of the records in a folder are a dataset's images."""
  try:
    rows = checked_files.read_npz(
      folder / "rows.npz", [f"{split}/id" for split in splits.SPLITS]
    )
    pixels = checked_files.read_npz(folder / "files.npz", ["pixels"])["pixels"]
  except errors.InputError:
    # Damaged, or not of ours.
    return False
  ids = np.concatenate(list(rows.values())).tolist()
  pixels = pixels[pixels != files_lib.DAMAGED]
  if len(ids) != len(pixels):
    return False
  settings = dataclasses.replace(settings, image_size=int(folder.name))
  table = dataset_table.read_table(settings)
  places = {image_id: place for place, image_id in enumerate(table.id.tolist())}

  def is_same(row: int) -> bool:
    place = places.get(ids[row])
    path = None if place is None else table.image[place]
    try:
      square = parts_lib.read_square(path or "", settings)
    except errors.InputError:
      return False
    return files_lib.pixel_hash(square) == pixels[row]

  sample = np.linspace(0, len(ids) - 1, min(len(ids), files_lib.MAX_SAMPLED))
  same = list(images.in_threads(is_same, np.unique(sample.round().astype(int))))
  return 2 * sum(same) > len(same)
