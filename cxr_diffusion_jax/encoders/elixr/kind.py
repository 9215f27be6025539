"""The state of one kind of embedding in a tree: present, unfinished, missing.

  ROOT/.elixr-embed/KIND/KIND_<i>.h5 (unfinished) --publish--> ROOT/elixrc/
                                                            or ROOT/elixrb/KIND/

Every file records what made it. Embeddings from another source are never changed;
stand-ins are replaced. Each kind has its own folder, so that it can be made by itself;
in the published form A, three kinds share one.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.elixr.files import writer as elixr_writer

_STAGING = ".elixr-embed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class KindFiles:
  """One kind of embedding in the tree, and its progress.

  Attributes:
    name: a key of `elixr.SHAPES`.
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
    return 4 * int(np.prod(elixr.SHAPES[self.name]))

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

  Args:
    root: the tree.
    name: name of the kind.
    encoder: makes the missing embeddings.
    wanted: stems, each with its text if the kind is made from texts.

  Raises:
    InputError: the tree has embeddings from another source.
  """
  folder = root / (name if name == "elixrc" else f"elixrb/{name}")
  staging = root / _STAGING / name
  for part in staging.glob("*.part"):
    part.unlink()
  origin = (encoder.description, encoder.standin)
  for path in _h5_files(staging):
    if elixr_writer.read_origin(path) != origin:
      raise errors.InputError(
        f"{staging} has unfinished embeddings of {elixr_writer.read_origin(path)[0]}",
        f"those of {encoder.description}",
        f"finish with that encoder, or remove {staging}",
      )
  published, outdated = _published(root, folder, name, encoder)
  done: dict[str, str | None] = {}
  for path in (*published, *_h5_files(staging)):
    done |= elixr_writer.read_texts(path)
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
  """The files of a kind in the tree: those of this encoder, and stand-ins to replace.

  Raises:
    InputError: there are files of another encoder.
  """
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
