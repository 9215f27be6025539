"""Readers of ELIXR embeddings in every on-disk form that exists, streaming.

find_elixr(root, kind) looks inside the files and says which form they have:

  A  elixrc/*_<int>.h5, elixrb/{img_emb,txt_emb,contrastive}/*_<int>.h5: `Image Index`
     beside `Embeddings` [n 1 8 8 1376] or a dataset named as the kind
  B  `image_ids` beside `embeddings`
  C  `embeddings` alone; the ids are the rows of NAME.parquet beside NAME_SUFFIX.h5
  D  `image_ids` beside `elixrc_embedding`, in chunks
  E  `Image Index` beside `embeddings`
  F  npz: image id -> 4096 numbers, which are 32 x 128

ElixrFiles.batches(wanted) then yields (stems [k], values [k *shape]) and never holds
more than a block of rows. A row is known by the stem of its image's file name.
Sources: the cards of the public datasets Yasintuncer/nih-cxr14-elixr and
8bits-ai/nih-cxr14-elixr-*, and Google's CXR Foundation NIH subset.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import json
import os
import pathlib
import re

import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, errors
from cxr_diffusion_jax.data import file_search
from cxr_diffusion_jax.encoders.base import NAMELESS
from cxr_diffusion_jax.encoders.elixr.files import file as elixr_file
from cxr_diffusion_jax.encoders.elixr.files import h5 as elixr_h5
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES

_SUFFIXES = (".h5", ".hdf5", ".npz")

# Levels of folders that are searched for files.
_DEPTH = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElixrFiles:
  """All files of one kind of embedding under one root.

  Attributes:
    kind: a key of `SHAPES`.
    form: one letter, A to F.
    files: in the natural order of their names.
    encoder: what made the embeddings, for people to read.
    standin: True when this project's stand-in encoder made them.
  """

  kind: str
  form: str
  files: tuple[elixr_file.ElixrFile, ...]
  encoder: str
  standin: bool

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of one row."""
    return SHAPES[self.kind]

  @property
  def num_rows(self) -> int:
    """Rows in all files, duplicates included."""
    return sum(file.num_rows for file in self.files)

  def fingerprint(self, cache: pathlib.Path | None = None) -> str:
    """A hash of the kind and of the content of all files, wherever they are.

    `cache` is a JSON file that keeps each file's hash with its size and time of change,
    so that gigabytes are read again only where these differ.
    """
    paths = [file.path for file in self.files]
    paths.extend(sorted({file.ids_path for file in self.files if file.ids_path}))
    kept = checked_files.read_json(cache) if cache and cache.is_file() else {}
    hashes, changed = [], False
    for path in paths:
      status = path.stat()
      stamp = [status.st_size, status.st_mtime_ns]
      key = str(path.resolve())
      if kept.get(key, {}).get("stamp") != stamp:
        with path.open("rb") as file:
          content = hashlib.file_digest(file, "sha256").hexdigest()
        kept[key], changed = {"stamp": stamp, "sha256": content}, True
      hashes.append(kept[key]["sha256"])
    if cache and changed:
      checked_files.write_json(cache, kept)
    facts = [self.kind, *hashes]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

  def batches(
    self, wanted: np.ndarray | None = None
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields stems [k] '<U' and values [k *shape] as stored (float16, 32 or 64).

    `wanted` are stems [n], None for all rows; blocks of a file without any of them are
    never read.

    Raises:
      InputError: a file is damaged, or a row has a value that is not finite.
    """
    for file in self.files:
      read = elixr_file.npz_batches if file.form == "F" else elixr_h5.batches
      for stems, values in read(file, wanted):
        elixr_file.check_finite(file.path, stems, values)
        yield stems, values


def find_elixr(root: str | os.PathLike, kind: str) -> ElixrFiles | None:
  """Finds the embeddings of one kind, a key of `SHAPES`, under a dataset tree.

  It looks into `elixrc/` or `elixrb/` with all their folders, and at files in the root
  itself that have `elixr` or `embedding` in their name. Real embeddings are taken
  before stand-ins.

  Raises:
    InputError: a file is damaged, of the wrong shape or without a known key; ids and
      rows differ in number; or two different sources hold this kind.
  """
  if kind not in SHAPES:
    raise ValueError(f"unknown kind {kind!r}; known: {', '.join(sorted(SHAPES))}")
  root = pathlib.Path(root)
  groups: dict[tuple[bool, str, str], list[elixr_file.ElixrFile]] = {}
  for path in _candidates(root, kind):
    inspect = elixr_file.inspect_npz if path.suffix == ".npz" else elixr_h5.inspect
    file = inspect(path, kind, _declared_kind(path, root) == kind)
    if file is not None:
      # Exports of form E are named for what they hold: two of them are two sources.
      source = path.stem if file.form == "E" else ""
      groups.setdefault((bool(file.standin), file.form, source), []).append(file)
  real = [groups[key] for key in sorted(groups) if not key[0]]
  if len(real) > 1:
    raise errors.InputError(
      f"two sources of {kind}: {real[0][0].path} and {real[1][0].path}",
      "one",
      "move one of them out of the tree",
    )
  if not groups:
    return None
  files = tuple(real[0] if real else next(iter(groups.values())))
  standin, encoder = _origin(root, files)
  return ElixrFiles(
    kind=kind,
    form=files[0].form,
    files=files,
    encoder=encoder,
    standin=standin,
  )


def _candidates(root: pathlib.Path, kind: str) -> list[pathlib.Path]:
  """Files that may hold `kind`, in natural order; those of other kinds left out."""
  paths = []
  if root.is_dir():
    paths = [
      path
      for path in root.iterdir()
      if re.search("elixr|embedding", path.name.lower()) and path.is_file()
    ]
  folder = root / ("elixrc" if kind == "elixrc" else "elixrb")
  if folder.is_dir():
    inside = file_search.find_files(folder, _SUFFIXES, _DEPTH)
    paths.extend(map(pathlib.Path, inside))
  return sorted(
    (
      path
      for path in paths
      if path.suffix in _SUFFIXES
      and not path.name.startswith(".")
      and "__MACOSX" not in path.parts
      and _declared_kind(path, root) in (None, kind)
    ),
    key=lambda path: [
      part.zfill(12) if part.isdigit() else part
      for part in re.split(r"(\d+)", str(path.relative_to(root)))
    ],
  )


def _declared_kind(path: pathlib.Path, root: pathlib.Path) -> str | None:
  """The kind that the nearest folder is named after."""
  folders = reversed(path.relative_to(root).parts[:-1])
  return next((folder for folder in folders if folder in SHAPES), None)


def _origin(
  root: pathlib.Path, files: tuple[elixr_file.ElixrFile, ...]
) -> tuple[bool, str]:
  """Whether stand-ins, and what made them: by the files, else by datasets.json."""
  standin = any(file.standin for file in files)
  encoder = next((file.encoder for file in files if file.encoder), "")
  about = root / "datasets.json"
  if files[0].form == "A" and about.is_file():
    card = artifacts.read_json(about)
    # Where described files name their encoder themselves, files without are others.
    silent = all(file.standin is None for file in files)
    if isinstance(card, dict) and silent and not card.get("said_in_files", False):
      standin, encoder = bool(card.get("standin")), str(card.get("encoder", ""))
  if not encoder:
    model = "elixr-c-v2-pooled" if files[0].kind == "elixrc" else "pax-elixr-b-text"
    encoder = f"google/cxr-foundation {model}, {NAMELESS} {files[0].form}"
  return standin, encoder
