"""Reads any radiograph file as one grey channel and makes squares of it.

PNG (L, RGB, RGBA, palette, 16-bit) -> [h w] uint8 -> crop | pad, Lanczos -> [s s] uint8

Work on many images runs in threads: PIL decodes and resizes without Python's lock (1.9
times as fast on two cores), and threads share no trouble with JAX's, as forks would.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent import futures
import io
import itertools
import os
import pathlib
import struct
from typing import TypeVar
import zlib

from etils import epath
import numpy as np
from PIL import Image

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.progress import Progress

MODES = ("crop", "pad")

# The first bytes of every PNG file.
PNG = b"\x89PNG\r\n\x1a\n"

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_grey(source: str | os.PathLike | bytes) -> np.ndarray:
  """Reads an image file as 8-bit grey.

  Colours become luminance (ITU-R 601-2); alpha is ignored; a palette is looked up; 16
  bits are scaled by their full range, v / 257.

  Args:
    source: a path or URL, or the file's bytes.

  Returns:
    [h w] uint8.

  Raises:
    InputError: no such file, no image, or a truncated one; with its name.
  """
  name = f"{len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
  try:
    if not isinstance(source, bytes) and artifacts.is_remote(source):
      source = epath.Path(source).read_bytes()
    with Image.open(
      io.BytesIO(source) if isinstance(source, bytes) else source
    ) as image:
      image.load()
      return to_grey(image)
  # What PIL's decoders raise on damaged files.
  except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
    raise errors.InputError(
      f"cannot read the image {name}: {error}",
      "a whole PNG",
      "copy it again, or leave such images out with --config.data.missing=drop",
    ) from error


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
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=box))
  scale = size / max(height, width)
  inner = (max(1, round(width * scale)), max(1, round(height * scale)))
  resized = np.asarray(Image.fromarray(image).resize(inner, Image.Resampling.LANCZOS))
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
    square = resize(read_grey(path), image_size, mode)
    Image.fromarray(square).save(png, format="PNG")
    artifacts.write_bytes(folder / f"{stem}.png", png.getvalue())

  with artifacts.disk_errors(folder):
    for count, _ in enumerate(in_threads(write, paths.items()), start=1):
      progress(f"resize to {image_size}", count, len(paths))


def find_files(
  folder: str | os.PathLike, suffixes: tuple[str, ...], depth: int = 3
) -> Iterator[str]:
  """Yields the paths of files in a folder and `depth - 1` levels below.

  Args:
    suffixes: in lower case, with the dot.
  """
  # Faster than pathlib: it knows what is a folder without another call.
  remote = artifacts.is_remote(folder)
  entries = epath.Path(folder).iterdir() if remote else os.scandir(folder)
  for entry in entries:
    # macOS leaves `__MACOSX` and files such as `._00000001_000.png` behind.
    if entry.name.startswith((".", "__MACOSX")):
      continue
    if entry.name.lower().endswith(suffixes):
      yield os.fspath(entry)
    elif depth > 1 and entry.is_dir():
      yield from find_files(entry, suffixes, depth - 1)


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


def refuse_deep_colour(name: str | os.PathLike, start: bytes) -> None:
  """Refuses PNGs of 16 bits with several channels: PIL keeps the upper byte only.

  Args:
    name: of the image, for the message.
    start: the first 26 bytes of the file.
  """
  if start[:8] == PNG and start[24:25] == b"\x10" and start[25:26] != b"\0":
    raise errors.InputError(
      f"{name} has 16 bits and several channels",
      "one channel of 16 bits, or 8 bits",
      "save it as 16-bit grey without transparency",
    )


def to_grey(image: Image.Image) -> np.ndarray:
  """Decoded pixels as grey, [h w] uint8, see `read_grey`."""
  if image.mode.startswith("I"):
    values = np.asarray(image).astype(np.int64)
    return ((np.clip(values, 0, 65535) + 128) // 257).astype(np.uint8)
  if image.mode in ("P", "PA"):
    # By way of RGBA, because a transparent palette entry keeps its colour there.
    image = image.convert("RGBA")
  if image.mode == "LA":
    return np.asarray(image.getchannel("L"))
  return np.asarray(image if image.mode == "L" else image.convert("L"))
