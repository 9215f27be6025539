"""A frozen network as a function from grey bytes to one vector per image, cached.

images uint8 [b h w 1] --resize, antialiased--> network's own size --> features [b d]
extract: batches of one shape -> rows appended to NAME-FINGERPRINT-KEY.npy.partial
         -> all there: renamed to NAME-FINGERPRINT-KEY.npy

An interrupted call resumes with the first missing row. NAME-... .json identifies the
images; features of other images are not used.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import os
import pathlib
import re
from typing import BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import checked_files, disk, errors, types

# Increased when the same network gives different features: saved ones are recomputed.
FORMAT = 1

# Images whose bytes identify a set.
_SAMPLED = 16


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Extractor:
  """A network and one of its layers.

  Attributes:
    standin: whether this project trained it instead of a published network.
    fingerprint: hash of the weights and their use.
    apply_fn: (params, uint8 [b h w 1]) -> [b d] float32.
    params: None for a network that holds its own and places them on devices.
  """

  name: str
  layer: str
  standin: bool
  fingerprint: str
  width: int
  batch_size: int
  apply_fn: Callable[[types.Params, types.Array], types.Array]
  params: types.Params = None


def of_network(
  *,
  name: str,
  layer: str,
  standin: bool,
  width: int,
  images_a_device: int,
  features_fn: Callable[[types.Params, jax.Array], jax.Array],
  params: types.Params,
) -> Extractor:
  """Compiles a network that runs in JAX, for `images_a_device` images per call and
  device.

  `features_fn` is (params, images [b h w 1] float32 in [0, 255]) -> [b d].
  """

  def apply_fn(params, images):
    return features_fn(params, images.astype(jnp.float32)).astype(jnp.float32)

  return Extractor(
    name=name,
    layer=layer,
    standin=standin,
    fingerprint=fingerprint(params, name, layer),
    width=width,
    batch_size=images_a_device * jax.local_device_count(),
    apply_fn=jax.jit(apply_fn),
    params=params,
  )


def resize(images: jax.Array, side: int, method: str = "cubic") -> jax.Array:
  """Resizes images to squares of a network's size: [b side side 1] in [0, 255].

  Antialiased: where images shrink, fine detail is averaged and not aliased (Parmar et
  al. 2022, 2104.11222). Other shapes than squares are stretched.
  """
  shape = (images.shape[0], side, side, 1)
  if images.shape == shape:
    return images
  return jnp.clip(jax.image.resize(images, shape, method, antialias=True), 0, 255)


def fingerprint(params: types.Params, *facts: str) -> str:
  """Returns 16 hexadecimal digits that identify weights and their use."""
  digest = hashlib.sha256(repr((FORMAT, facts)).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]


def extract(
  extractor: Extractor,
  images: types.Arrays,
  *,
  cache: pathlib.Path | None = None,
  key: str = "images",
  progress: types.Progress = types.no_progress,
) -> np.ndarray:
  """Computes the features of n images, uint8 [h w 1] of one size: [n d] float32.

  Each image is read once. A call is spread over the devices of this process where they
  divide its batch. `key` names the images in the cache.

  Raises:
    errors.InputError: images of other types or sizes, or a disk that fails.
  """
  if not re.fullmatch(r"[\w.-]+", key):
    raise ValueError(f"key {key!r}: letters, digits, '.', '_' and '-' alone")
  label = f"{extractor.name} features of {key}"
  if not len(images):
    return np.zeros((0, extractor.width), np.float32)
  if cache is None:
    features = np.empty((len(images), extractor.width), np.float32)
    done = 0
    for rows in _batches(extractor, images, 0):
      features[done : done + len(rows)] = rows
      done += len(rows)
      progress(label, done, len(images))
    return features
  with disk.reporting(cache):
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{extractor.name}-{extractor.fingerprint}-{key}.npy"
    origin = _origin(images)
    _drop_stale(path, origin)
    if not path.is_file():
      _write(path, extractor, images, lambda done: progress(label, done, len(images)))
      _note(path, origin, checked_files.checksum(path))
    return np.load(path)


def _write(
  path: pathlib.Path,
  extractor: Extractor,
  images: types.Arrays,
  report: Callable[[int], None],
) -> None:
  """Writes the missing rows."""
  part = path.with_name(f"{path.name}.partial")
  with open(part, "r+b" if part.is_file() else "x+b") as file:
    first = _begin(file, (len(images), extractor.width))
    report(first)
    for rows in _batches(extractor, images, first):
      file.write(rows.astype("<f4", copy=False).tobytes())
      file.flush()
      # Rows count when the file is reopened, so they must be on disk.
      os.fsync(file.fileno())
      first += len(rows)
      report(first)
  os.replace(part, path)


def _begin(file: BinaryIO, shape: tuple[int, int]) -> int:
  """Seeks to the first missing row of a file, and returns that row."""
  header = {"descr": "<f4", "fortran_order": False, "shape": shape}
  file.seek(0)
  np.lib.format.write_array_header_1_0(file, header)
  start, bytes_a_row = file.tell(), 4 * shape[1]
  rows = max(0, file.seek(0, os.SEEK_END) - start) // bytes_a_row
  file.seek(start + rows * bytes_a_row)
  file.truncate()
  return rows


def _batches(extractor: Extractor, images: types.Arrays, first: int):
  """Yields the features [k d] of images from `first` on, a call at a time."""
  params, place = _placed(extractor)
  shape = images[0].shape
  for start in range(first, len(images), extractor.batch_size):
    stop = min(start + extractor.batch_size, len(images))
    batch = [np.asarray(images[row]) for row in range(start, stop)]
    for row, image in enumerate(batch, start):
      _check(image, shape, row)
    # Pad with the last image, so that only one shape is compiled.
    batch += [batch[-1]] * (extractor.batch_size - len(batch))
    features = extractor.apply_fn(params, place(np.stack(batch)))
    features = np.asarray(features, np.float32)[: stop - start]
    if not np.isfinite(features).all():
      raise FloatingPointError(
        f"features of {extractor.name} are not finite for images {start} to {stop - 1}"
      )
    yield features


def _placed(extractor: Extractor) -> tuple[types.Params, Callable]:
  """Parameters on every device of this process, and a function to split a batch."""
  devices = jax.local_devices()
  alone = extractor.params is None or len(devices) == 1
  if alone or extractor.batch_size % len(devices):
    return extractor.params, lambda batch: batch
  mesh = jax.sharding.Mesh(np.array(devices), ("data",))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  params = jax.device_put(extractor.params, everywhere)
  return params, lambda batch: jax.device_put(batch, split)


def _check(image: np.ndarray, shape: tuple[int, ...], row: int) -> None:
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 1:
    raise errors.InputError(
      f"image {row} is {image.dtype} {image.shape}", "grey: uint8 [height width 1]"
    )
  if image.shape != shape:
    raise errors.InputError(
      f"image {row} of {image.shape[1]} x {image.shape[0]} pixels",
      f"{shape[1]} x {shape[0]}, as image 0 has",
      "bring all images to one size first",
    )


def _drop_stale(path: pathlib.Path, origin: str) -> None:
  """Removes features that are damaged or of other images; notes the origin of new ones.

  Files of earlier versions have no checksum.
  """
  note = path.with_suffix(".json")
  saved = checked_files.read_json(note) if note.exists() else {}
  checksum = saved.get("crc32c")
  whole = checksum is None or not path.is_file()
  if saved.get("origin") == origin and (
    whole or checksum == checked_files.checksum(path)
  ):
    return
  for old in (path, path.with_name(f"{path.name}.partial")):
    old.unlink(missing_ok=True)
  _note(path, origin)


def _note(path: pathlib.Path, origin: str, checksum: int | None = None) -> None:
  note = {"origin": origin, "crc32c": checksum}
  checked_files.write_json(path.with_suffix(".json"), note)


def _origin(images: types.Arrays) -> str:
  """Identifies a set: the number of images, and the bytes of some."""
  digest = hashlib.sha256(str(len(images)).encode())
  for row in np.unique(np.linspace(0, len(images) - 1, _SAMPLED).astype(int)):
    image = np.ascontiguousarray(images[int(row)])
    digest.update(f"{image.shape} {image.dtype}".encode())
    digest.update(image.tobytes())
  return digest.hexdigest()[:16]
