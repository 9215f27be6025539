"""The column of latents: an autoencoder run once over all images of the records.

images --encode, in tiles above 512 pixels--> mean, logvar --> latent [h w 2z] float16
                                     training rows --> statistics.json

Each autoencoder has its own folder beside the records, named after its weights. An
interrupted run continues with the missing rows.
"""

from collections.abc import Iterator, Sequence
import functools
import hashlib
import math
import pathlib
import time

import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, types
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.columns import writer as column_writer
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.records import statistics as statistics_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import encoding
from cxr_diffusion_jax.encoders.latents.autoencoders import Autoencoder
from cxr_diffusion_jax.models import kl_codec

NAME = kl_codec.COLUMN

# Number of evenly spaced training rows used for the statistics.
_MEASURED = 512


def folder(settings: DataSettings, autoencoder: Autoencoder) -> pathlib.Path:
  """The folder of this autoencoder's column."""
  return settings.records_folder / f"latent-{autoencoder.fingerprint[:8]}"


def make(
  settings: DataSettings,
  records: records_lib.Records,
  autoencoder: Autoencoder,
  progress: types.Progress = types.no_progress,
  rows_at_risk: int = 256,
) -> None:
  """Makes the column and its statistics if they are missing or stale.

  `progress` is called with the images done, and at the end with the rate. A kill loses
  the work on at most `rows_at_risk` images.

  Raises:
    errors.InputError: an unusable autoencoder or moments that are not finite; an image
      size that its factor does not divide; too small a disk.
  """
  network, target = autoencoder.network, folder(settings, autoencoder)
  kl_codec.check_side(network, settings.image_size)
  side = settings.image_size // network.factor
  shape = (side, side, 2 * network.latent_channels)
  facts = [autoencoder.description, records.fingerprint, kl_codec.TILE]
  facts.append(kl_codec.OVERLAP)
  stamps = [(0, time.monotonic())]
  size = autoencoder.batch_size(records.image_size)

  def moments(wanted: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch, images in encoding.image_batches(records, wanted, size):
      yield batch, autoencoder.encode(images)
      stamps.append((stamps[-1][0] + len(batch), time.monotonic()))

  column = encoding.refresh_column(
    target,
    records,
    NAME,
    hashlib.sha256(repr(facts).encode()).hexdigest(),
    lambda _: functools.partial(
      column_writer.write_column,
      shape=shape,
      encoder=autoencoder.description,
      standin=False,
      batches=moments,
      flush_bytes=rows_at_risk * 2 * math.prod(shape),
    ),
    progress,
  )
  num_images = stamps[-1][0]
  if num_images:
    progress(f"latents, {_rate(stamps)}", num_images, num_images)
  if column is not None:
    _write_statistics(column)


def open_column(
  settings: DataSettings, autoencoder: Autoencoder
) -> columns_lib.Column | None:
  """Opens the column of this autoencoder."""
  return columns_lib.open_column(folder(settings, autoencoder), NAME)


def statistics(column: columns_lib.Column) -> artifacts.Json:
  """What `make` measured: `{"latent": {"mean", "std", "num_images"}, "modes": [8]}`.

  The standard deviation is of all numbers of unscaled latents, drawn from their
  posteriors, about their one mean. `modes` are variances of the posteriors' means, see
  `data.records.statistics`; an earlier version did not write them.
  """
  measured = checked_files.read_json(column.folder / "statistics.json")
  return {NAME: measured[NAME], "modes": measured.get("modes", [])}


def _write_statistics(column: columns_lib.Column) -> None:
  path = column.folder / "statistics.json"
  mark = column.description.fingerprint
  if path.is_file() and checked_files.read_json(path)["fingerprint"] == mark:
    return
  source = column.source("train")
  count = min(len(source), _MEASURED)
  sums, means = np.zeros(3), []
  for row in np.linspace(0, len(source) - 1, count).astype(int):
    mean, logvar = np.split(source[int(row)].astype(np.float64), 2, axis=-1)
    # The second moment of a sample is the squared mean plus the variance.
    second = np.square(mean) + np.exp(logvar)
    sums += [mean.sum(), second.sum(), mean.size]
    means.append(mean.astype(np.float32).ravel())
  mean = sums[0] / max(sums[2], 1)
  std = math.sqrt(max(sums[1] / max(sums[2], 1) - mean**2, 0.0))
  measured = {"mean": mean, "std": std, "num_images": count}
  modes = statistics_lib.mode_variances([np.stack(means)]) if means else []
  checked_files.write_json(path, {"fingerprint": mark, NAME: measured, "modes": modes})


def _rate(stamps: Sequence[tuple[int, float]]) -> str:
  """Images a second, without the first batch, which compiles, where there are more.

  `stamps` are images done and the time, at the start and after each batch.
  """
  (done, start), (total, end) = stamps[1 if len(stamps) > 2 else 0], stamps[-1]
  return f"{(total - done) / max(end - start, 1e-9):,.1f} images/s"
