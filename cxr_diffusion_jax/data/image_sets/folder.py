"""Folders of images, with or without a table of labels, as image sets.

folder -> names -> headers: one size? known modes? whole? -> ImageSet, decoded on demand
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import os
import pathlib

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import dicom, file_search
from cxr_diffusion_jax.data import images as images_lib
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet, OnAccess

# Levels of folders that are searched, such as Kaggle's images_001/images.
DEPTH = 3

_FIX = "copy it again, or remove it from the folder"

# Modes that `data/images.py` converts; CMYK, YCbCr, LAB and floats are no radiographs.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Header:
  """The header of a file, before decoding."""

  width: int
  height: int

  def __str__(self) -> str:
    return f"{self.width}x{self.height}"


def read(
  folder: str | os.PathLike,
  labels_csv: str | os.PathLike | None = None,
  *,
  image_size: int | None = None,
  progress: types.Progress = types.no_progress,
) -> ImageSet:
  """Opens the images of a folder and its subfolders, to three levels, sorted by name.

  PNG, JPEG and DICOM are recognised by their extensions; names that begin with a dot
  are skipped. Headers are read now, pixels on access. Grey values are computed as in
  training, see `data/images.py` and `data/dicom.py`.

  Args:
    image_size: pixels of a side that all are resized to: the centred square of the
      shorter side, with an antialiased Lanczos; None for no resizing.

  Raises:
    errors.InputError: no folder, no image in it, two of one name, one that cannot be
      read or has another size or an unknown mode; labels that do not match.
  """
  table = image_set.read_labels(labels_csv) if labels_csv is not None else None
  return _labelled([_open(folder, image_size, progress)], table)[0]


def read_pair(
  real: str | os.PathLike,
  synthetic: str | os.PathLike,
  labels_csv: str | os.PathLike | None = None,
  *,
  image_size: int | None = None,
  progress: types.Progress = types.no_progress,
) -> tuple[ImageSet, ImageSet]:
  """Opens two folders to compare, with one table of labels for both.

  The table may have the images of one folder only: the other set then has no labels.
  """
  table = image_set.read_labels(labels_csv) if labels_csv is not None else None
  first, second = (_open(x, image_size, progress) for x in (real, synthetic))
  check_pair(first, second)
  first, second = _labelled([first, second], table)
  return first, second


def _labelled(
  sets: Sequence[ImageSet], table: image_set.LabelTable | None
) -> Sequence[ImageSet]:
  """The sets with the labels of a table; a set without any row there has none."""
  if table is None:
    return sets
  image_set.refuse_unmatched(table, sets)
  return [
    image_set.label(images, table)
    if any(name in table.rows for name in images.ids.tolist())
    else images
    for images in sets
  ]


def check_pair(real: ImageSet, synthetic: ImageSet) -> None:
  """Raises `errors.InputError` for images of different sizes.

  Resized to one size without the user's knowledge, metrics would measure the resizing.
  """
  sides = [images.images[0].shape[:2] for images in (real, synthetic)]
  if sides[0] != sides[1]:
    (h, w), (height, width) = sides
    raise errors.InputError(
      f"images of {real.name} are {w}x{h}, of {synthetic.name} {width}x{height}",
      "one size",
      f"--image_size {min(h, w, height, width)} resizes them all",
    )


def _open(
  folder: str | os.PathLike, image_size: int | None, progress: types.Progress
) -> ImageSet:
  """`read` without labels."""
  if image_size is not None and image_size < 1:
    raise errors.InputError(f"--image_size {image_size}", "pixels, 1 or more")
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    kind = "not a folder" if folder.exists() else "no such folder"
    raise errors.InputError(f"{kind}: {folder}", "a folder of images")
  paths = file_search.find_files(folder, image_set.SUFFIXES, DEPTH)
  files = sorted((image_set.stem(path), path) for path in paths)
  if not files:
    raise errors.InputError(
      f"no image in {folder} or {DEPTH - 1} levels below",
      f"files named {', '.join('*' + x for x in image_set.SUFFIXES)}",
    )
  ids, paths = map(list, zip(*files, strict=True))
  _refuse_duplicates(folder, ids, paths)
  headers = []
  for header in images_lib.in_threads(_header, paths):
    headers.append(header)
    progress(f"reading {folder}", len(headers), len(paths))
  _check_sizes(folder, paths, headers, image_size)

  def decode(row: int) -> np.ndarray:
    image = _decode(paths[row])
    if image_size is not None:
      image = images_lib.resize(image, image_size)
    return image[..., np.newaxis]

  images = OnAccess(len(paths), decode)
  return ImageSet(name=str(folder), images=images, ids=np.array(ids, np.str_))


def _refuse_duplicates(
  folder: pathlib.Path, ids: Sequence[str], paths: Sequence[str]
) -> None:
  counts = Counter(ids)
  twice = [key for key, count in counts.items() if count > 1]
  if twice:
    same = [path for key, path in zip(ids, paths, strict=True) if key == twice[0]]
    raise errors.InputError(
      f"{len(twice)} names are given to several images of {folder}:"
      f" {same[0]} and {same[1]}",
      "a name of its own, without its extension, for each image",
      "rename them, or give one folder of these",
    )


def _header(path: str) -> _Header:
  """Reads the size and the mode of a file, and checks that it is complete."""
  if path.lower().endswith(image_set.DICOM_SUFFIXES):
    dataset = dicom.open_dicom(path)
    return _Header(width=int(dataset.Columns), height=int(dataset.Rows))
  with (
    images_lib.decode_errors(f"the image {path}", "a whole PNG or JPEG", _FIX),
    open(path, "rb") as file,
  ):
    file.seek(max(0, os.fstat(file.fileno()).st_size - 64))
    end = file.read()
    file.seek(0)
    with images_lib.open_picture(file, path) as image:
      (width, height), mode, form = image.size, image.mode, image.format
      if images_lib.is_turned(image):
        width, height = height, width
  if mode not in MODES and not mode.startswith("I"):
    raise errors.InputError(
      f"{path} of {width}x{height} has the mode {mode}",
      "grey, RGB, RGBA or a palette of 8 bits, or grey of 16 bits",
      "save it as 8-bit grey PNG",
    )
  # A truncated file is refused now, not after hours. Some tools write after the end, so
  # a file without one is decoded first.
  if (b"IEND" if form == "PNG" else b"\xff\xd9") not in end:
    _decode(path)
  return _Header(width=width, height=height)


def _check_sizes(
  folder: pathlib.Path,
  paths: Sequence[str],
  headers: Sequence[_Header],
  image_size: int | None,
) -> None:
  sizes = [str(header) for header in headers]
  usual, count = Counter(sizes).most_common(1)[0]
  if image_size is None:
    if count < len(sizes):
      other = next(i for i, size in enumerate(sizes) if size != usual)
      header = headers[sizes.index(usual)]
      raise errors.InputError(
        f"{len(sizes) - count} of {len(sizes)} images of {folder} are not {usual} as"
        f" the others: {paths[other]} is {sizes[other]}",
        "images of one size",
        f"--image_size {min(header.width, header.height)} resizes them all",
      )
    return
  small = [min(x.width, x.height) < image_size for x in headers]
  if any(small):
    logging.warning(
      "%d of %d images of %s are smaller than --image_size %d and are blurred by it,"
      " such as %s of %s",
      *(sum(small), len(small), folder, image_size),
      *(paths[small.index(True)], sizes[small.index(True)]),
    )


def _decode(path: str) -> np.ndarray:
  """-> uint8 [h w]."""
  if path.lower().endswith(image_set.DICOM_SUFFIXES):
    return dicom.to_grey(dicom.open_dicom(path), path)
  return images_lib.read_grey(path, fix=_FIX)
