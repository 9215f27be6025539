"""Reads any radiograph file as one grey channel and makes squares of it.

PNG (L, RGB, RGBA, palette, 16-bit), JPEG -> [h w] uint8 -> crop | pad, Lanczos -> [s s]

Records, references and folders to evaluate are read by these rules: colours become
luminance (ITU-R 601-2); alpha is ignored; a palette is looked up; a JPEG is turned as
its EXIF tag says. X-rays of 16 bits often use 10 to 14 of them, so their values are
scaled by the smallest 2**k - 1, k from 8 to 16, that holds an image's maximum.

Work on many images runs in threads: decoding and resizing release Python's lock, and
threads share no trouble with JAX's, as forks would.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent import futures
import contextlib
import io
import itertools
import os
import pathlib
import struct
from typing import IO, TypeVar
import zlib

from absl import logging
from etils import epath
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from cxr_diffusion_jax import artifacts, disk, errors
from cxr_diffusion_jax.data import lanczos
from cxr_diffusion_jax.progress import Progress

MODES = ("crop", "pad")

# 67 million pixels at most: the largest detectors have a fifth of that.
MAX_SIDE = 8192

# Twice an image of 16 bits with these sides.
MAX_BYTES = 4 * MAX_SIDE**2

# EXIF's orientations but 1 -> what shows the image upright.
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}

# The first bytes of every PNG file.
PNG = b"\x89PNG\r\n\x1a\n"

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_grey(
  source: str | os.PathLike | bytes,
  *,
  fix: str = "copy it again, or leave such images out with --config.data.missing=drop",
) -> np.ndarray:
  """Reads an image file as 8-bit grey, by the rules of this module.

  Args:
    source: a path or URL, or the file's bytes.
    fix: what the user can do about a file that cannot be read.

  Returns:
    [h w] uint8.

  Raises:
    InputError: no such file, no image, a truncated one, or one that `open_picture`
      refuses; with its name.
  """
  name = f"{len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
  with decode_errors(f"the image {name}", "a whole PNG or JPEG", fix):
    content = source if isinstance(source, bytes) else read_bytes(source)
    with open_picture(io.BytesIO(content), name) as image:
      return to_grey(image, name)


def read_bytes(path: str | os.PathLike) -> bytes:
  """A whole image file; its decoder then allocates no more than there is.

  Raises:
    OSError: it cannot be read.
    ValueError: it is larger than any image that is read.
  """
  file = epath.Path(path)
  if not artifacts.is_remote(path) and (size := file.stat().length) > MAX_BYTES:
    raise ValueError(f"it has {size / 1e6:,.0f} MB")
  return file.read_bytes()


@contextlib.contextmanager
def decode_errors(what: str, expected: str, fix: str = "") -> Iterator[None]:
  """Turns what PIL's decoders raise on damaged files into an InputError."""
  try:
    yield
  except (
    *(OSError, SyntaxError, ValueError, struct.error, zlib.error),
    Image.DecompressionBombError,
  ) as error:
    # The text of this one names the buffer that is read.
    unknown = isinstance(error, UnidentifiedImageError)
    why = "its format is unknown" if unknown else error
    raise errors.InputError(f"cannot read {what}: {why}", expected, fix) from error


@contextlib.contextmanager
def open_picture(
  file: IO[bytes], name: str, *, min_side: int = 1
) -> Iterator[Image.Image]:
  """Opens a PNG or JPEG, of which no pixel is decoded yet.

  Raises:
    InputError: sides outside of `min_side` to `MAX_SIDE`; or 16 bits and several
      channels, of which PIL keeps the upper byte only. Call it in `decode_errors`.
  """
  start = file.read(26)
  file.seek(0)

  def check_size(width: int, height: int) -> None:
    if not min_side <= min(width, height) <= max(width, height) <= MAX_SIDE:
      raise errors.InputError(
        f"{name} has {width}x{height} pixels",
        f"sides of {min_side} to {MAX_SIDE} pixels",
      )

  if start[:8] == PNG and len(start) == 26:
    # Before PIL, which warns of large images.
    check_size(*struct.unpack(">II", start[16:24]))
    if start[24] == 16 and start[25] != 0:
      raise errors.InputError(
        f"{name} has 16 bits and several channels",
        "one channel of 16 bits, or 8 bits",
        "save it as 16-bit grey without transparency",
      )
  with Image.open(file, formats=("PNG", "JPEG")) as image:
    check_size(*image.size)
    yield image


def resize(image: np.ndarray, size: int, mode: str = "crop") -> np.ndarray:
  """Makes a square of an image, its aspect ratio kept, with an antialiased Lanczos.

  Args:
    image: [h w] uint8.
    mode: `crop` takes the centred square of the shorter side; `pad` scales the longer
      side and puts black beside.

  Returns:
    [size size] uint8.

  Raises:
    InputError: an unknown mode.
  """
  if mode not in MODES:
    raise errors.InputError(f"config.data.resize={mode!r}", " or ".join(MODES))
  height, width = image.shape
  if height == width == size:
    return image
  if mode == "crop":
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return lanczos.resize(image, (size, size), box)
  scale = size / max(height, width)
  inner = (max(1, round(width * scale)), max(1, round(height * scale)))
  resized = lanczos.resize(image, inner)
  square = np.zeros((size, size), np.uint8)
  top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
  square[top : top + inner[1], left : left + inner[0]] = resized
  return square


def resize_boxes(
  boxes: np.ndarray, shape: tuple[int, ...], mode: str = "crop"
) -> np.ndarray:
  """Moves boxes as `resize` moves what they enclose.

  Args:
    boxes: [k 4] (x, y, width, height) as fractions of the image; nan for none.
    shape: (height, width) of the image that is resized.

  Returns:
    [k 4] float32, fractions of the square within [0, 1]; nan where there is no box or
    nothing of it is left.
  """
  side = min(shape) if mode == "crop" else max(shape)
  scale = np.array(shape[::-1]) / side
  offset = (scale - 1) / 2
  low = np.clip(boxes[:, :2] * scale - offset, 0, 1)
  high = np.clip((boxes[:, :2] + boxes[:, 2:]) * scale - offset, 0, 1)
  placed = np.concatenate([low, high - low], axis=1).astype(np.float32)
  placed[~(placed[:, 2:] > 0).all(axis=1)] = np.nan
  return placed


def resize_files(
  paths: Mapping[str, str],
  folder: pathlib.Path,
  image_size: int,
  *,
  mode: str = "crop",
  progress: Progress,
) -> None:
  """Writes squares of images (stem -> path) as PNGs, each whole or not at all.

  Raises:
    InputError: an image that cannot be read, or the disk is full.
  """
  folder.mkdir(exist_ok=True)

  def write(item: tuple[str, str]) -> None:
    stem, path = item
    png = io.BytesIO()
    fix = "copy it again, or move it out of the tree"
    square = resize(read_grey(path, fix=fix), image_size, mode)
    Image.fromarray(square).save(png, format="PNG")
    artifacts.write_bytes(folder / f"{stem}.png", png.getvalue())

  with disk.reporting(folder):
    for count, _ in enumerate(in_threads(write, paths.items()), start=1):
      progress(f"resize to {image_size}", count, len(paths))


def in_threads(
  function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
  """Maps in threads, one a core, in order, with few results waiting.

  `function` should release Python's lock for most of its time; its exception ends the
  map.
  """
  items = iter(items)
  num_threads = os.cpu_count() or 1
  with futures.ThreadPoolExecutor(num_threads) as executor:
    waiting = [
      executor.submit(function, item)
      for item in itertools.islice(items, 4 * num_threads)
    ]
    try:
      while waiting:
        yield waiting.pop(0).result()
        waiting += [executor.submit(function, x) for x in itertools.islice(items, 1)]
    finally:
      executor.shutdown(cancel_futures=True)


def is_turned(image: Image.Image) -> bool:
  """Whether `to_grey` exchanges width and height, as a JPEG's EXIF tag says."""
  return _orientation(image) >= 5


def _orientation(image: Image.Image) -> int:
  """1 to 8; 1 where EXIF cannot be read, as its other tags are of no use here."""
  # Of a PNG it would be known only after decoding.
  if image.format not in ("JPEG", "MPO"):
    return 1
  try:
    value = image.getexif().get(ExifTags.Base.Orientation)
  except Exception:  # PIL's readers of tags raise errors of many kinds.
    return 1
  return int(value) if value in _TURNS else 1


def to_grey(image: Image.Image, name: str) -> np.ndarray:
  """The pixels of an opened picture as grey, [h w] uint8; `name` is for the log."""
  image.load()
  if (orientation := _orientation(image)) != 1:
    # `ImageOps.exif_transpose` writes all tags again, and fails on odd ones.
    image = image.transpose(_TURNS[orientation])
  if image.mode.startswith("I"):
    values = np.asarray(image)
    if values.dtype != np.uint16:
      values = np.clip(values, 0, 65535).astype(np.uint16)
    bits = max(8, int(values.max()).bit_length())
    message = (
      "%s has 16 bits a pixel: such images are scaled by the bits in use, %d here"
    )
    logging.log_first_n(logging.INFO, message, 1, name, bits)
    levels = np.clip(np.arange(2**16) * (255 / (2**bits - 1)), 0, 255)
    return np.round(levels).astype(np.uint8)[values]
  if image.mode in ("P", "PA"):
    # By way of RGBA, because a transparent palette entry keeps its colour there.
    image = image.convert("RGBA")
  if image.mode == "LA":
    return np.asarray(image.getchannel("L"))
  return np.asarray(image if image.mode == "L" else image.convert("L"))
