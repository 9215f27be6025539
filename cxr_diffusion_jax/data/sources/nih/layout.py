"""Finds what an NIH chest X-ray tree holds, however it was copied.

root -> {size or original: {stem: path}}, Data_Entry CSV, boxes, lists, Google labels

`original/` may be flat or hold Kaggle's `images_001..012/images/`; NIH's own archives
unpack to `images/`, Kaggle's straight into the root: both are taken too.
"""

from collections.abc import Iterator
import dataclasses
import os
from pathlib import Path
import re

from cxr_diffusion_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
  """The files of a dataset tree; paths are absolute or relative as `root` is.

  Attributes:
    root: the tree's folder.
    data_entry: NIH's CSV with one row an image.
    originals: stem -> path, images as published.
    resized: size in pixels -> stem -> path, from folders `{size}x{size}`.
    boxes: `BBox_List_2017.csv`, None where absent.
    train_val_list: the official list of training images, None where absent.
    test_list: the official list of test images, None where absent.
    google_labels: all CSVs below `google-labels/`, sorted.
  """

  root: Path
  data_entry: Path
  originals: dict[str, str]
  resized: dict[int, dict[str, str]]
  boxes: Path | None = None
  train_val_list: Path | None = None
  test_list: Path | None = None
  google_labels: tuple[Path, ...] = ()

  def image_path(self, stem: str, image_size: int) -> Path | None:
    """Where to read one image from: its size, else the nearest larger, else original.

    Args:
      stem: the image's name without extension, such as `00000061_012`.
      image_size: pixels of a side that are wanted.

    Returns:
      A path, or None where the tree has no copy that is large enough.
    """
    for folder in self._folders(image_size):
      if stem in folder:
        return Path(folder[stem])
    return None

  def resolve(self, image_size: int) -> dict[str, str]:
    """`image_path` of every stem in the tree that has one."""
    chosen: dict[str, str] = {}
    for folder in reversed(self._folders(image_size)):
      chosen.update(folder)
    return chosen

  def _folders(self, image_size: int) -> list[dict[str, str]]:
    sizes = sorted(size for size in self.resized if size >= image_size)
    return [*(self.resized[size] for size in sizes), self.originals]


def find_tree(root: str | os.PathLike) -> Tree:
  """Scans a dataset tree once (names only, no image is opened).

  Args:
    root: the folder that holds `original/` or `{size}x{size}/` and the CSV.

  Returns:
    The tree.

  Raises:
    InputError: no such folder, no images in it, or no Data_Entry CSV.
  """
  root = Path(root)
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
    if match := re.fullmatch(r"(\d+)x(\1)", folder.name):
      resized[int(match[1])] = dict(_images(folder))
    elif re.fullmatch(r"original|images(_\d+)?", folder.name):
      originals.update(_images(folder))
  if not originals and not any(resized.values()):
    raise errors.InputError(
      f"no images under {root}",
      "PNG files in original/, images/ or a folder such as 256x256/",
      "--config.data.root=FOLDER, or prepare --download nih",
    )
  return Tree(
    root=root,
    data_entry=_data_entry(root),
    originals=originals,
    resized=resized,
    boxes=_file_or_none(root / "BBox_List_2017.csv"),
    train_val_list=_file_or_none(root / "train_val_list.txt"),
    test_list=_file_or_none(root / "test_list.txt"),
    google_labels=tuple(sorted((root / "google-labels").rglob("*.csv"))),
  )


def _data_entry(root: Path) -> Path:
  # The 2020 version corrects ages and the sex of some patients: preferred.
  names = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv")
  for name in names:
    if (root / name).is_file():
      return root / name
  raise errors.InputError(
    f"no Data_Entry CSV in {root}",
    f"one of {', '.join(names)}",
    "copy NIH's file there, or prepare --download nih",
  )


def _file_or_none(path: Path) -> Path | None:
  return path if path.is_file() else None


def _images(folder: str | os.PathLike, depth: int = 3) -> Iterator[tuple[str, str]]:
  """Yields (stem, path) of the images in a folder and `depth - 1` levels below."""
  with os.scandir(folder) as entries:
    for entry in entries:
      stem, dot, extension = entry.name.rpartition(".")
      if dot and extension.lower() in ("png", "jpg", "jpeg"):
        # Names such as `._00000001_000.png` are what macOS archives leave behind.
        if stem and not stem.startswith("."):
          yield stem, entry.path
      elif depth > 1 and entry.is_dir():
        yield from _images(entry.path, depth - 1)
