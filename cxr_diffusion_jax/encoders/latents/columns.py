"""The column of latents: an autoencoder run once over all images of the records.

images --encode, in tiles above 512 pixels--> mean, logvar --> latent [h w 2z] float16
                                     training rows --> statistics.json

Each autoencoder has a folder of its own beside the records, named by its weights, so
that one in another's place is noticed. An interrupted run continues with the rows that
are missing.
"""

from collections.abc import Iterator, Sequence
from concurrent import futures
import dataclasses
import functools
import hashlib
import math
import pathlib
import time
from typing import Any

import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders.latents.autoencoders import Autoencoder
from cxr_diffusion_jax.models import kl_codec

NAME = kl_codec.COLUMN

# What a kill can cost.
_ROWS_AT_RISK = 256

# Training rows, spread evenly, that the statistics are of.
_MEASURED = 512


def folder(settings: DataSettings, autoencoder: Autoencoder) -> pathlib.Path:
  """The folder of this autoencoder's column."""
  return settings.records_folder / f"latent-{autoencoder.fingerprint[:8]}"


def make(
  settings: DataSettings,
  records: records_lib.Records,
  autoencoder: Autoencoder,
  progress: types.Progress = types.no_progress,
) -> None:
  """Makes the column and its statistics where they are missing or stale.

  Args:
    settings: of the data.
    records: of the tree.
    autoencoder: encodes the images.
    progress: called with the images done, and at the end with the rate.

  Raises:
    errors.InputError: an autoencoder that is not usable, or that makes moments that are
      not finite; an image size that its factor does not divide; too small a disk.
  """
  network, target = autoencoder.network, folder(settings, autoencoder)
  kl_codec.check_side(network, settings.image_size)
  side = settings.image_size // network.factor
  shape = (side, side, 2 * network.latent_channels)
  ids = {split: records.ids(split) for split in records.num_rows}
  facts = [autoencoder.description, records.fingerprint, kl_codec.TILE]
  facts.append(kl_codec.OVERLAP)
  fingerprint = hashlib.sha256(repr(facts).encode()).hexdigest()
  column = columns_lib.open_column(target, NAME)
  wanted = columns_lib.ids_fingerprint(ids)
  if not columns_lib.is_fresh(column, wanted, fingerprint):
    rows = _Rows(records=records, autoencoder=autoencoder)
    column = columns_lib.write_column(
      target,
      ids=ids,
      name=NAME,
      shape=shape,
      encoder=autoencoder.description,
      standin=False,
      fingerprint=fingerprint,
      batches=rows,
      progress=progress,
      flush_bytes=_ROWS_AT_RISK * 2 * math.prod(shape),
    )
    progress(f"latents, {rows.rate}", rows.num_images, rows.num_images)
  _write_statistics(column)


def open_column(
  settings: DataSettings, autoencoder: Autoencoder
) -> columns_lib.Column | None:
  """Opens the column of this autoencoder."""
  return columns_lib.open_column(folder(settings, autoencoder), NAME)


def statistics(column: columns_lib.Column) -> dict[str, Any]:
  """What `make` measured: `{"latent": {"mean", "std", "num_images"}}`.

  The standard deviation is of all numbers of unscaled latents, drawn from their
  posteriors, about their one mean.
  """
  return {NAME: artifacts.read_json(column.folder / "statistics.json")[NAME]}


def _write_statistics(column: columns_lib.Column) -> None:
  path = column.folder / "statistics.json"
  mark = column.description.fingerprint
  if path.is_file() and artifacts.read_json(path)["fingerprint"] == mark:
    return
  source = column.source("train")
  count = min(len(source), _MEASURED)
  sums = np.zeros(3)
  for row in np.linspace(0, len(source) - 1, count).astype(int):
    mean, logvar = np.split(source[int(row)].astype(np.float64), 2, axis=-1)
    # The second moment of a draw is that of its mean and its variance.
    second = np.square(mean) + np.exp(logvar)
    sums += [mean.sum(), second.sum(), mean.size]
  mean = sums[0] / max(sums[2], 1)
  std = math.sqrt(max(sums[1] / max(sums[2], 1) - mean**2, 0.0))
  measured = {"mean": mean, "std": std, "num_images": count}
  artifacts.write_json(path, {"fingerprint": mark, NAME: measured})


@dataclasses.dataclass(kw_only=True)
class _Rows:
  """Called with the ids wanted (None: all): yields (ids [k], moments [k h w 2z]).

  Attributes:
    records: of the images.
    autoencoder: encodes them.
    num_images: encoded so far.
    first: seconds of the first batch, in which the program was compiled.
    seconds: of the others.
    num_timed: images of the others.
  """

  records: records_lib.Records
  autoencoder: Autoencoder
  num_images: int = 0
  first: float = 0.0
  seconds: float = 0.0
  num_timed: int = 0

  def __call__(
    self, wanted: np.ndarray | None
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    places = [
      (split, row, image_id)
      for split in self.records.num_rows
      for row, image_id in enumerate(self.records.ids(split))
    ]
    if wanted is not None:
      places = [places[i] for i in np.flatnonzero(np.isin(_ids(places), wanted))]
    b = self.autoencoder.batch_size(self.records.image_size)
    batches = [places[start : start + b] for start in range(0, len(places), b)]
    # One thread, so that the next images are read while these are encoded.
    with futures.ThreadPoolExecutor(1) as pool:
      ahead = [pool.submit(self._images, some) for some in batches[:1]]
      for number, some in enumerate(batches):
        begun = time.monotonic()
        images = ahead.pop().result()
        coming = batches[number + 1 : number + 2]
        ahead = [pool.submit(self._images, some_more) for some_more in coming]
        moments = self.autoencoder.encode(images)
        elapsed = time.monotonic() - begun
        if number:
          self.seconds += elapsed
          self.num_timed += len(some)
        else:
          self.first = elapsed
        self.num_images += len(some)
        yield _ids(some), moments

  def _images(self, places: Sequence[tuple[str, int, str]]) -> np.ndarray:
    """uint8 [n h w 1] of some rows."""
    return np.stack([self._sources[split][row]["image"] for split, row, _ in places])

  @functools.cached_property
  def _sources(self) -> dict[str, records_lib.RecordSource]:
    return {
      split: records_lib.RecordSource(self.records, split)
      for split, count in self.records.num_rows.items()
      if count
    }

  @property
  def rate(self) -> str:
    """Images a second, in words."""
    if self.num_timed:
      return f"{self.num_timed / self.seconds:,.1f} images/s"
    rate = self.num_images / self.first if self.first else 0.0
    return f"{rate:,.1f} images/s with the time to compile"


def _ids(places: Sequence[tuple[str, int, str]]) -> np.ndarray:
  return np.array([image_id for _, _, image_id in places], np.str_)
