"""From a tree of X-rays to what training reads: records, and columns joined to them.

  tree (or phantoms made on the spot) --> records --+--> Dataset --> JoinedSource(split)
  encoders of the path --> columns -----------------+
  an autoencoder, run over records --> latents -----+

Everything here can be interrupted and repeated; finished work is not repeated.
"""

from collections.abc import Sequence
import dataclasses
import functools
import os

from absl import logging
import jax
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import captions as captions_lib
from cxr_diffusion_jax.data import csv_table, pipeline
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import phantom
from cxr_diffusion_jax.encoders import empty_text
from cxr_diffusion_jax.encoders import opening as encoders
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.encoders.latents import columns as latent_columns
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import null_context, preparation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """Records of a tree and the columns that a conditioning path reads.

  Attributes:
    columns: embeddings in the records' row order.
    origin: what the images are: phantom, generated or real images.
    targets: columns that training compares features with, not conditions. They are of
      the image itself whatever the reference, in the batch field `target_NAME`.
    latents: the column that training denoises in place of images; () for none.
    captions: what training draws of a row's captions.
  """

  settings: DataSettings
  records: records_lib.Records
  columns: tuple[columns_lib.Column, ...]
  needs: conditioning.Needs
  origin: str
  targets: tuple[columns_lib.Column, ...] = ()
  latents: tuple[columns_lib.Column, ...] = ()
  captions: captions_lib.Captions = captions_lib.NO_CAPTIONS

  @property
  def phantom(self) -> bool:
    """Whether all images are phantoms."""
    return self.origin == phantom.ORIGIN

  @property
  def kind(self) -> str:
    """A description for people: what the images are, stand-ins or not."""
    standins = [
      f"stand-in {column.description.name}"
      for column in (*self.columns, *self.targets)
      if column.description.standin
    ]
    # A condition and a target may be the same column.
    return ", ".join(dict.fromkeys([self.origin, *standins]))

  @functools.cached_property
  def card(self) -> card_lib.DatasetCard:
    """The dataset card that a run stores."""
    statistics = dict(self.records.statistics)
    if empty := empty_text.read(self.needs.specs, self.columns):
      statistics[null_context.KEY] = null_context.to_json(empty)
    for column in self.latents:
      measured = latent_columns.statistics(column)
      modes = {**statistics.get("modes", {}), latent_columns.NAME: measured["modes"]}
      statistics |= {**measured, "modes": modes}
    return card_lib.DatasetCard(
      fingerprint=self.records.fingerprint,
      fingerprints=self.records.fingerprints,
      kind=self.kind,
      phantom=self.phantom,
      vocabulary=self.records.vocabulary,
      image_size=self.settings.image_size,
      resize=self.settings.resize,
      num_rows=dict(self.records.num_rows),
      statistics=statistics,
      columns=card_lib.describe(self.columns, self.captions),
      targets=card_lib.describe(self.targets),
      latents=card_lib.describe(self.latents),
      root=self.settings.location,
      records_dir=os.path.abspath(self.settings.records_dir),
    )

  def summary(self) -> str:
    """One line for the log."""
    rows = ", ".join(f"{split} {n:,}" for split, n in self.records.num_rows.items())
    return f"{self.kind}; {rows}; fingerprint {self.records.fingerprint[:12]}"

  @property
  def splits(self) -> tuple[str, ...]:
    """Splits with at least one row."""
    return tuple(split for split, count in self.records.num_rows.items() if count)

  def source(self, split: str, *, images: bool = True) -> pipeline.JoinedSource:
    """Rows of a split that have every column; `images` is False to read latents only.

    Raises:
      errors.InputError: no such split, or a split without rows.
    """
    source = self._join(split, images)
    if source.num_left_out:
      logging.warning(
        "Split %s: %d images without another patient of the same findings, sex and view"
        " are left out; %d remain.",
        *(split, source.num_left_out, len(source)),
      )
    if not len(source):
      raise errors.InputError(
        f"split {split!r} without a row",
        "at least one image with every embedding asked for",
        "add images, or change config.data.split or config.data.validation_fraction",
      )
    return source

  def _join(self, split: str, images: bool = True) -> pipeline.JoinedSource:
    of_partner = ()
    if self.needs.reference != "self":
      of_partner = self.needs.reference_columns
    columns = (*self.columns, *self.latents)
    return pipeline.JoinedSource(
      self.records,
      split,
      columns,
      of_partner,
      self.targets,
      images,
      self.needs.reference,
      self.captions if split == "train" else captions_lib.NO_CAPTIONS,
    )

  def ids(self, split: str) -> np.ndarray:
    """[n] str, the image ids of `source(split)` in its order."""
    return self.records.ids(split)[self.source(split).row]

  def find(self, image_ids: Sequence[str]) -> list[tuple[pipeline.JoinedSource, int]]:
    """Finds images by name, with or without an extension, in any split.

    Returns:
      For each image, the source of its split and its row there.

    Raises:
      errors.InputError: an image that is in no split.
    """
    places = {}
    for split, count in self.records.num_rows.items():
      if count:
        source = self._join(split)
        for place, image_id in enumerate(self.records.ids(split)[source.row]):
          places[str(image_id)] = (source, place)
    stems = [csv_table.stem(image_id) for image_id in image_ids]
    unknown = [stem for stem in stems if stem not in places]
    if unknown:
      raise errors.InputError(
        f"images {', '.join(unknown[:5])}",
        f"ids of the {len(places):,} records, such as {next(iter(places), 'none')}",
      )
    return [places[stem] for stem in stems]


def prepare(
  settings: DataSettings,
  needs: conditioning.Needs,
  *,
  targets: conditioning.Needs | None = None,
  autoencoder: autoencoders.Autoencoder | None = None,
  progress: types.Progress = types.no_progress,
) -> Dataset:
  """Makes records and columns where they are missing or stale, and opens them.

  Several hosts with one folder share the work. With a folder of its own, the first one
  makes its records, and each of the others must have the same records there.

  Args:
    needs: the columns that a path reads, and the encoder of each.
    targets: the columns that training compares with, and the encoder of each.
    autoencoder: makes the latents that training denoises; None for none.

  Raises:
    errors.InputError: the tree, an image, an encoder or an embedding file is not
      usable, the tree has no embeddings of a kind, or another host has no records.
  """
  asked = preparation.Asked(needs=needs, targets=targets, autoencoder=autoencoder)
  records = preparation.make(settings, asked, progress)
  latents = ()
  if autoencoder is not None:
    latents = (latent_columns.open_column(settings, autoencoder),)
  if records is None:
    records = records_lib.open_records(settings)
  if records is None or None in latents:
    if jax.process_index() > 0:
      raise errors.InputError(
        f"{settings.records_folder}: process {jax.process_index()} sees no records of"
        " these settings",
        "a folder that all hosts share, or one with records on each host",
        "run prepare on this host",
      )
    raise RuntimeError(f"{settings.records_folder} changed while it was prepared")
  if needs.sources and not records.sources:
    raise errors.InputError(
      f"{records.folder} does not say which source each image is of",
      "records of several sources, opened once with their data by this version",
      "make config.data.root available, or remove the folder",
    )
  columns = encoders.open_columns(settings, needs)
  origins = dict.fromkeys(phantom.origin_of(root) for root in settings.roots)
  return Dataset(
    settings=settings,
    records=records,
    columns=columns,
    needs=needs,
    origin=" and ".join(origins),
    targets=encoders.open_columns(settings, targets) if targets else (),
    latents=tuple(column for column in latents if column is not None),
    captions=captions_lib.Captions(
      num=settings.captions,
      drop=settings.caption_drop,
      columns=encoders.open_captions(settings, needs, columns),
    ),
  )
