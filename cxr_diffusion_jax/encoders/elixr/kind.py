"""One kind of embedding in a tree: present, unfinished, missing; its files of form A.

  ROOT/.elixr-embed/KIND/KIND_<i>.h5 (unfinished) --publish--> ROOT/elixrc/
                                                            or ROOT/elixrb/KIND/

Every file records what made it, so that a copied stand-in is still marked as one.
Embeddings from another source are never changed; stand-ins are replaced. Each kind has
its own folder, so that it can be made by itself; in the published form A (the dataset
Yasintuncer/nih-cxr14-elixr), three kinds share one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib

import h5py
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES, dataset, stem_of

_STAGING = ".elixr-embed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class KindFiles:
  """One kind of embedding in the tree, and its progress.

  Attributes:
    name: a key of `SHAPES`.
    folder: where its files will be published.
    staging: where they are collected.
    outdated: stand-ins in `folder` that these files replace.
    missing: stems that are still to be encoded.
  """

  name: str
  folder: pathlib.Path
  staging: pathlib.Path
  outdated: tuple[pathlib.Path, ...]
  missing: frozenset[str]

  @property
  def row_bytes(self) -> int:
    return 4 * int(np.prod(SHAPES[self.name]))

  def next_file(self) -> pathlib.Path:
    """A path in `staging` with a number that neither folder has."""
    there = [*_h5_files(self.folder), *_h5_files(self.staging)]
    numbers = (path.stem.rpartition("_")[2] for path in there)
    last = max((int(number) for number in numbers if number.isdigit()), default=0)
    return self.staging / f"{self.folder.name}_{last + 1}.h5"


def open_kind(
  root: pathlib.Path,
  name: str,
  encoder: encoder_lib.Encoder,
  wanted: Mapping[str, str | None],
) -> KindFiles:
  """Finds the published and unfinished embeddings of a kind in a tree.

  `wanted` are stems, each with its text if the kind is made from texts.

  Raises:
    InputError: the tree has embeddings from another source.
  """
  folder = root / (name if name == "elixrc" else f"elixrb/{name}")
  staging = root / _STAGING / name
  for part in staging.glob("*.part"):
    part.unlink()
  origin = (encoder.description, encoder.standin)
  done: dict[str, str | None] = {}
  for path in _h5_files(staging):
    (made_by, standin), texts = _read(path)
    if (made_by, standin) != origin:
      raise errors.InputError(
        f"{staging} has unfinished embeddings of {made_by}",
        f"those of {encoder.description}",
        f"finish with that encoder, or remove {staging}",
      )
    done |= texts
  published, outdated = _published(root, folder, name, encoder)
  for path in published:
    done |= _read(path)[1]
  # Files without stored texts are trusted: they name the same encoder.
  other = [stem for stem in wanted if done.get(stem) not in (None, wanted[stem])]
  if other:
    raise errors.InputError(
      f"{name} embeddings of other texts for {len(other)} images, such as {other[0]}:"
      f" {done[other[0]]!r}",
      f"{wanted[other[0]]!r}",
      f"remove {folder if published else staging} to make them again",
    )
  return KindFiles(
    name=name,
    folder=folder,
    staging=staging,
    outdated=outdated,
    missing=frozenset(set(wanted) - set(done)),
  )


def publish(kind: KindFiles) -> bool:
  """Publishes a complete kind; returns False if nothing is new."""
  files = _h5_files(kind.staging)
  if not files:
    return False
  for path in kind.outdated:
    path.unlink()
  kind.folder.parent.mkdir(parents=True, exist_ok=True)
  if kind.folder.exists():
    for path in files:
      os.replace(path, kind.folder / path.name)
    kind.staging.rmdir()
  else:
    os.replace(kind.staging, kind.folder)
  # Other kinds may be unfinished there.
  if not any(kind.staging.parent.iterdir()):
    kind.staging.parent.rmdir()
  return True


def _published(
  root: pathlib.Path, folder: pathlib.Path, name: str, encoder: encoder_lib.Encoder
) -> tuple[tuple[pathlib.Path, ...], tuple[pathlib.Path, ...]]:
  """The files of a kind: those of this encoder, and stand-ins to replace."""
  present = elixr.find_elixr(root, name)
  if present is None:
    return (), ()
  paths = tuple(file.path for file in present.files)
  if all(
    (file.encoder, file.standin) == (encoder.description, encoder.standin)
    for file in present.files
  ):
    return paths, ()
  here = tuple(path for path in paths if path.parent == folder)
  # Real embeddings take precedence over stand-ins elsewhere; two stand-ins would mix.
  if present.standin and (here == paths or not encoder.standin):
    return (), here
  raise errors.InputError(
    f"{name} embeddings of {present.encoder} in {paths[0].parent}",
    f"none, or those of {encoder.description}",
    "move them out of the tree, or go on with what is there",
  )


def _h5_files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(folder.glob("*.h5"))


def create_file(
  path: pathlib.Path, kind: str, num_rows: int, encoder: str, standin: bool
) -> h5py.File:
  """Opens a new file of form A for `num_rows` rows, to be filled by `write_rows`."""
  file = h5py.File(path, "w")
  file.attrs["encoder"], file.attrs["standin"] = encoder, standin
  file.create_dataset("Image Index", (num_rows,), h5py.string_dtype())
  # As published: ELIXR-C's maps kept the batch axis of 1.
  shape = (1, *SHAPES[kind]) if kind == "elixrc" else SHAPES[kind]
  file.create_dataset(_key(kind), (num_rows, *shape), "float32")
  return file


def write_rows(
  file: h5py.File,
  kind: str,
  start: int,
  stems: Sequence[str],
  values: np.ndarray,
  texts: Sequence[str] | None = None,
) -> None:
  """Writes k rows of `create_file` from `start` on.

  `stems` are names of images without ending, `values` [k *shape], and `texts` what was
  encoded, kept beside the values of text kinds.
  """
  rows = slice(start, start + len(stems))
  index, target = dataset(file, "Image Index"), dataset(file, _key(kind))
  if texts is not None:
    kept = file.require_dataset("Text", index.shape, h5py.string_dtype())
    kept[rows] = np.array([text.encode() for text in texts], object)
  index[rows] = np.array([f"{stem}.png".encode() for stem in stems])
  target[rows] = values.reshape(-1, *target.shape[1:])


def _read(path: pathlib.Path) -> tuple[tuple[str, bool], dict[str, str | None]]:
  """A file's encoder, whether it is a stand-in, and its stems with their texts."""
  with h5py.File(path, "r") as file:
    stems = [stem_of(name) for name in dataset(file, "Image Index")[...]]
    origin = str(file.attrs.get("encoder", "")), bool(file.attrs.get("standin", False))
    if "Text" not in file:
      return origin, dict.fromkeys(stems)
    texts = list(dataset(file, "Text").asstr()[...])
    return origin, dict(zip(stems, texts, strict=True))


def _key(kind: str) -> str:
  return "Embeddings" if kind == "elixrc" else kind
