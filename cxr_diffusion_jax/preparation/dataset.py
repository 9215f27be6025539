"""From a tree of X-rays to what training reads: records, and columns joined to them.

  tree (or phantoms made on the spot) --> records --+--> Dataset --> JoinedSource(split)
  ELIXR files (or stand-ins made from the tree) --> columns --+

Everything here can be interrupted and repeated; what is done is not done again.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import jax
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import columns as columns_lib
from cxr_diffusion_jax.data import elixr, pipeline
from cxr_diffusion_jax.data import records as records_lib
from cxr_diffusion_jax.data.phantom import tree as phantom_tree
from cxr_diffusion_jax.preparation import standin, standin_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
  """Which X-rays a run reads, and how they become records.

  Attributes:
    root: the tree (`original/`, `Data_Entry_2017.csv`, ...).
    image_size: side of the square images, in pixels.
    records_dir: where records, columns and stand-ins of all trees are kept.
    resize: 'crop' (centre) or 'pad', when an image is not square.
    split: 'auto' (the tree's lists, else by patient hash), 'official' or 'hash'.
    validation_fraction: part of the training patients kept for validation.
    train_on_expert: train on patients of Google's expert test sets too.
    missing: 'error' or 'drop': what to do with rows without image or embedding.
    phantom_images: make a tree of so many phantoms at `root` if there is none; 0 to
      make none.
    phantom_seed: their seed.
    standin: where the tree has no embeddings, train stand-in encoders on its images
      and make them from those.
    num_workers: processes that read; 0 reads in threads of this one.
  """

  root: str
  image_size: int
  records_dir: str = "records"
  resize: str = "crop"
  split: str = "auto"
  validation_fraction: float = 0.05
  train_on_expert: bool = False
  missing: str = "error"
  phantom_images: int = 0
  phantom_seed: int = 0
  standin: bool = False
  num_workers: int = 0

  def __post_init__(self):
    if self.missing not in ("error", "drop"):
      raise errors.InputError(f"config.data.missing={self.missing!r}", "error or drop")
    if self.image_size < 8:
      raise errors.InputError(f"config.data.image_size={self.image_size}", "8 or more")

  @property
  def tree_folder(self) -> pathlib.Path:
    """The folder below `records_dir` that belongs to this tree alone."""
    root = pathlib.Path(self.root).resolve()
    mark = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    return pathlib.Path(self.records_dir) / f"{root.name}-{mark}"

  def record_settings(self) -> records_lib.RecordSettings:
    return records_lib.RecordSettings(
      root=pathlib.Path(self.root),
      folder=self.tree_folder / str(self.image_size),
      image_size=self.image_size,
      resize=self.resize,
      split=self.split,
      validation_fraction=self.validation_fraction,
      train_on_expert=self.train_on_expert,
      missing=self.missing,
    )

  def standin_root(self) -> pathlib.Path:
    """Where stand-in embeddings of this tree stand: in it if it is our own."""
    if phantom_tree.is_phantom_tree(self.root):
      return pathlib.Path(self.root)
    return self.tree_folder / "standin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """Records of a tree and the columns that a conditioning path wants.

  Attributes:
    records: images and their labels.
    columns: embeddings in the records' row order.
    phantom: whether the images are phantoms.
  """

  records: records_lib.Records
  columns: tuple[columns_lib.Column, ...]
  phantom: bool

  @property
  def kind(self) -> str:
    """What this is, for people: phantoms or real images, stand-ins or not."""
    parts = ["phantom images" if self.phantom else "real images"]
    parts += [
      f"stand-in {column.description.name}"
      for column in self.columns
      if column.description.standin
    ]
    return ", ".join(parts)

  @functools.cached_property
  def description(self) -> dict[str, Any]:
    """Plain values that tell this data from any other, and what a codec needs."""
    return {
      "fingerprint": self.records.fingerprint,
      "kind": self.kind,
      "num_rows": dict(self.records.num_rows),
      "statistics": self.records.statistics,
      "columns": {
        column.description.name: {
          "encoder": column.description.encoder,
          "standin": column.description.standin,
          "fingerprint": column.description.fingerprint,
        }
        for column in self.columns
      },
    }

  def summary(self) -> str:
    """One line for the log."""
    rows = ", ".join(f"{split} {n:,}" for split, n in self.records.num_rows.items())
    return f"{self.kind}; {rows}; fingerprint {self.records.fingerprint[:12]}"

  def source(self, split: str) -> pipeline.JoinedSource:
    """Rows of a split that have every column.

    Raises:
      errors.InputError: no such split, or it has no row.
    """
    source = pipeline.JoinedSource(self.records, split, self.columns)
    if not len(source):
      raise errors.InputError(
        f"split {split!r} without a row",
        "at least one image with every embedding asked for",
        "add images, or change config.data.split or config.data.validation_fraction",
      )
    return source

  def ids(self, split: str) -> np.ndarray:
    """[n] str, the image ids of `source(split)` in its order."""
    return self.records.ids(split)[self.source(split).row]

  def find(self, image_ids: Sequence[str]) -> list[tuple[pipeline.JoinedSource, int]]:
    """Finds images by id in any split.

    Args:
      image_ids: names of images, with or without an ending.

    Returns:
      For each, the source of its split and its place there.

    Raises:
      errors.InputError: an image that no split has.
    """
    places = {}
    for split, count in self.records.num_rows.items():
      if count:
        source = pipeline.JoinedSource(self.records, split, self.columns)
        for place, image_id in enumerate(self.records.ids(split)[source.row]):
          places[str(image_id)] = (source, place)
    stems = [pathlib.PurePath(image_id).stem for image_id in image_ids]
    unknown = [stem for stem in stems if stem not in places]
    if unknown:
      raise errors.InputError(
        f"images {', '.join(unknown[:5])}",
        f"ids of the {len(places):,} records, such as {next(iter(places), 'none')}",
      )
    return [places[stem] for stem in stems]


def prepare(
  settings: DataSettings,
  columns: Sequence[str],
  *,
  progress: types.Progress = types.no_progress,
) -> Dataset:
  """Makes records and columns where they are missing or stale, and opens them.

  On several hosts the first one works and the others wait.

  Args:
    settings: of the data.
    columns: names of the embedding columns wanted.
    progress: told during long work.

  Raises:
    errors.InputError: the tree, an image or an embedding file is not usable, or the
      tree has no embeddings of a kind.
  """
  if jax.process_index() == 0:
    _make(settings, columns, progress)
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("prepared")
  records = records_lib.open_records(settings.record_settings())
  opened = [columns_lib.open_column(records.folder, name) for name in columns]
  return Dataset(
    records=records,
    columns=tuple(opened),
    phantom=phantom_tree.is_phantom_tree(settings.root),
  )


def make_standins(
  settings: DataSettings, kinds: Sequence[str], progress: types.Progress
) -> None:
  """Trains stand-in encoders on the tree's training images and writes their files.

  Args:
    settings: of the data.
    kinds: of embeddings, names of `elixr.SHAPES`.
    progress: told during long work.
  """
  records = records_lib.prepare_records(settings.record_settings(), progress=progress)
  standin_tree.write(
    records,
    folder=settings.tree_folder / "standin_clip",
    root=settings.standin_root(),
    kinds=kinds,
    settings=standin.TrainSettings(),
    progress=progress,
  )


def _make(
  settings: DataSettings, columns: Sequence[str], progress: types.Progress
) -> None:
  if settings.phantom_images:
    phantom_tree.write_tree(
      settings.root,
      num_images=settings.phantom_images,
      size=settings.image_size,
      seed=settings.phantom_seed,
      progress=progress,
    )
  records = records_lib.prepare_records(settings.record_settings(), progress=progress)
  ids = {split: records.ids(split) for split in records.num_rows}
  for name in columns:
    files = _find_embeddings(settings, name, progress)
    column = columns_lib.open_column(records.folder, name)
    wanted = columns_lib.ids_fingerprint(ids)
    if column is not None and columns_lib.is_fresh(column, wanted, files.fingerprint):
      continue
    columns_lib.write_column(
      records.folder,
      ids=ids,
      name=name,
      shape=files.shape,
      encoder=files.encoder,
      standin=files.standin,
      fingerprint=files.fingerprint,
      batches=files.batches,
      missing=settings.missing,
      progress=progress,
    )


def _find_embeddings(
  settings: DataSettings, kind: str, progress: types.Progress
) -> elixr.ElixrFiles:
  files = elixr.find_elixr(settings.root, kind)
  if files is None and settings.standin:
    make_standins(settings, [kind], progress)
  if files is None:
    files = elixr.find_elixr(settings.standin_root(), kind)
  if files is None:
    raise errors.InputError(
      f"no {kind} embeddings in {settings.root}",
      "ELIXR files in one of the known forms, below elixrc/ or elixrb/",
      "`python -m cxr_diffusion_jax.prepare --config CONFIG --download elixr`, or"
      " --standin for stand-ins trained on this tree",
    )
  return files
