"""Finds what an NIH chest X-ray tree holds, however it was copied.

root -> {size or original: {stem: path}}, Data_Entry CSV, boxes, lists, Google labels

`original/` may be flat or hold Kaggle's `images_001..012/images/`; NIH's own archives
unpack to `images/`, Kaggle's straight into the root or, resized, to
`images-224/images-224/`: these are taken too.
"""

import dataclasses
import os
import pathlib
import re

from etils import epath

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table, file_search, images
from cxr_diffusion_jax.progress import Progress

# What the command `generate` writes to the folder of its dataset.
GENERATION_FILE = "generation.json"

IMAGES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
  """The files of a dataset tree; paths are absolute or relative as `root` is.

  Attributes:
    data_entry: NIH's CSV with one row an image.
    originals: stem -> path, images as published.
    resized: size in pixels -> stem -> path, from folders `{size}x{size}`.
    boxes: `BBox_List_2017.csv`, None where absent.
    google_labels: all CSVs below `google-labels/`, sorted.
  """

  root: epath.Path
  data_entry: epath.Path
  originals: dict[str, str]
  resized: dict[int, dict[str, str]]
  boxes: epath.Path | None = None
  train_val_list: epath.Path | None = None
  test_list: epath.Path | None = None
  google_labels: tuple[epath.Path, ...] = ()

  def resolve(self, image_size: int) -> dict[str, str]:
    """Stem -> path of the copy to read: this size, else the next larger, else original.

    Stems without a copy that is large enough are left out.
    """
    paths = dict(self.originals)
    for size in sorted(self.resized, reverse=True):
      if size >= image_size:
        paths.update(self.resized[size])
    return paths


def find_tree(root: str | os.PathLike) -> Tree:
  """Scans a tree once (names only, no image is opened).

  Raises:
    InputError: no such folder, no images in it, or no Data_Entry CSV.
  """
  root = epath.Path(root)
  if not root.is_dir():
    kind = "not a folder" if root.exists() else "no such folder"
    raise errors.InputError(
      f"{kind}: data root {root}",
      "a tree with original/ or 256x256/ and Data_Entry_2017.csv",
      "--config.data.root=FOLDER, or prepare --download nih",
    )
  originals: dict[str, str] = {}
  resized: dict[int, dict[str, str]] = {}
  for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    # Kaggle's resized copy has `images-224/images-224/`.
    if match := re.fullmatch(r"(\d+)x\1|images-(\d+)", folder.name):
      size = int(match[1] or match[2])
      resized[size] = {**resized.get(size, {}), **_by_stem(folder)}
    elif re.fullmatch(r"original|images(_\d+)?", folder.name):
      originals.update(_by_stem(folder))
  if not originals and not any(resized.values()):
    raise errors.InputError(
      f"no images under {root}",
      "PNG files in original/, images/ or a folder such as 256x256/",
      "--config.data.root=FOLDER, or prepare --download nih",
    )
  labels = root / "google-labels"
  csvs = file_search.find_files(labels, (".csv",)) if labels.is_dir() else ()
  return Tree(
    root=root,
    data_entry=_data_entry(root),
    originals=originals,
    resized=resized,
    # Kaggle's resized copy adds `_NIH` to the names of the lists.
    boxes=_first_file(root, "BBox_List_2017.csv", "BBox_List_2017_Official_NIH.csv"),
    train_val_list=_first_file(root, "train_val_list.txt", "train_val_list_NIH.txt"),
    test_list=_first_file(root, "test_list.txt", "test_list_NIH.txt"),
    google_labels=tuple(sorted(map(epath.Path, csvs))),
  )


def resize_tree(
  root: str | os.PathLike, image_size: int, *, mode: str = "crop", progress: Progress
) -> pathlib.Path:
  """Makes the folder `{image_size}x{image_size}` of a tree; resumes where it stopped.

  Raises:
    InputError: an image that cannot be read, none large enough, or a full disk.
  """
  folder = pathlib.Path(root) / f"{image_size}x{image_size}"
  tree = find_tree(root)
  done = tree.resized.get(image_size, {})
  paths = tree.resolve(image_size)
  if not paths:
    raise errors.InputError(
      f"no image of {image_size} pixels or more in {root}",
      f"original/, or a folder larger than {folder.name}/",
    )
  paths = {stem: path for stem, path in paths.items() if stem not in done}
  images.resize_files(paths, folder, image_size, mode=mode, progress=progress)
  return folder


def _data_entry(root: epath.Path) -> epath.Path:
  # The 2020 version corrects ages and the sex of some patients: preferred.
  names = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv")
  path = _first_file(root, *names)
  if path is None and (root / GENERATION_FILE).exists():
    raise errors.InputError(
      f"{root} is a synthetic dataset that is not finished",
      "a whole one",
      "repeat the command generate there, with each of its shards",
    )
  if path is None:
    raise errors.InputError(
      f"no Data_Entry CSV in {root}",
      f"one of {', '.join(names)}",
      "copy NIH's file there, or prepare --download nih",
    )
  return path


def _first_file(root: epath.Path, *names: str) -> epath.Path | None:
  return file_search.first_file(root / name for name in names)


def _by_stem(folder: epath.Path) -> dict[str, str]:
  return {csv_table.stem(path): path for path in file_search.find_files(folder, IMAGES)}
