"""What an autoencoder's run tells on the way: validation, pictures, exported folder.

validation images --encode, decode--> loss, PSNR --> scalars
  some of them --> original, reconstruction, difference --> WORKDIR/samples/step_*.png
training images --encode--> mean and spread of the latents
  --> WORKDIR/autoencoder, as diffusers has it: what `config.codec.folder` takes
"""

from collections.abc import Callable
import pathlib
from typing import Any

import jax
import numpy as np

from cxr_diffusion_jax import errors, pictures, types
from cxr_diffusion_jax.extras.autoencoder import compiled as programs_lib
from cxr_diffusion_jax.extras.autoencoder import settings as settings_lib
from cxr_diffusion_jax.interop import diffusers
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.training import compiled as run_programs
from cxr_diffusion_jax.training import metrics_logger as meter_lib

# Below WORKDIR.
FOLDER = "autoencoder"

# Training images whose latents' spread is measured.
MAX_STATISTIC_IMAGES = 512

# A difference is shown so many times as large, around middle grey.
DIFFERENCE_GAIN = 4


def make_measure(
  experiment: settings_lib.AutoencoderExperiment,
  programs: programs_lib.AutoencoderPrograms,
  dataset: dataset_lib.Dataset,
  workdir: pathlib.Path,
  writer: Any,
) -> Callable[[types.Params, int], float]:
  """Builds (averaged parameters, step) -> validation loss, which exports them too."""

  def measure(params: types.Params, step: int) -> float:
    sums = run_programs.summed(
      programs.validation_step,
      params,
      dataset.source("validation"),
      experiment,
      max_batches=experiment.train.validation_batches,
    )
    count = sums.pop("count")
    means = {name: value / count for name, value in sums.items()}
    loss = means.pop("total")
    if not np.isfinite(loss):
      raise meter_lib.not_finite("validation/loss", loss, step)
    scalars = {"loss": loss, **means}
    writer.write_scalars(
      step, {f"validation/{name}": value for name, value in scalars.items()}
    )
    export(experiment, programs, dataset, params, workdir)
    return loss

  return measure


def export(
  experiment: settings_lib.AutoencoderExperiment,
  programs: programs_lib.AutoencoderPrograms,
  dataset: dataset_lib.Dataset,
  params: types.Params,
  workdir: pathlib.Path,
) -> None:
  """Writes WORKDIR/autoencoder with the factors that standardise its latents.

  Args:
    experiment: of the run.
    programs: of the run.
    dataset: whose training images are encoded.
    params: averaged parameters.
    workdir: of the run.

  Raises:
    errors.InputError: latents without a spread, or a folder that cannot be written.
  """
  mean, std = latent_statistics(experiment, programs, dataset, params)
  if not std > 0 or not np.isfinite(std):
    raise errors.InputError(
      f"latents of standard deviation {std}",
      "a number above 0",
      "lower config.loss.kl_weight, or train longer",
    )
  network = experiment.network.clone(scaling_factor=1 / std, shift_factor=mean)
  # On every host, since all of them hold parts.
  whole = jax.device_get(programs.whole(params))
  if jax.process_index() == 0:
    diffusers.save_autoencoder(workdir / FOLDER, network, whole)


def latent_statistics(
  experiment: settings_lib.AutoencoderExperiment,
  programs: programs_lib.AutoencoderPrograms,
  dataset: dataset_lib.Dataset,
  params: types.Params,
) -> tuple[float, float]:
  """Mean and standard deviation of all numbers of latents of training images.

  Rombach et al. 2022 (2112.10752), appendix G: one factor for all channels.
  """
  sums = run_programs.summed(
    programs.latent_step,
    params,
    dataset.source("train"),
    experiment,
    max_batches=-(-MAX_STATISTIC_IMAGES // experiment.train.batch_size),
  )
  mean = sums["mean"] / sums["count"]
  return mean, float(np.sqrt(max(sums["square"] / sums["count"] - mean**2, 0.0)))


def make_show(
  experiment: settings_lib.AutoencoderExperiment,
  programs: programs_lib.AutoencoderPrograms,
  dataset: dataset_lib.Dataset,
  workdir: pathlib.Path,
  writer: Any,
) -> Callable[[types.Params, int], None]:
  """Builds (averaged parameters, step) -> WORKDIR/samples/step_STEP.png."""
  source = dataset.source("validation")
  count = min(experiment.sample.num_images, len(source))
  rows = np.linspace(0, len(source) - 1, count).astype(int)
  images = source.batch(rows)["image"]
  title = f"f{experiment.network.factor}, {dataset.kind}"

  def show(params: types.Params, step: int) -> None:
    made = reconstruct(experiment, programs, params, images)
    if jax.process_index() > 0:
      return
    difference = np.clip(DIFFERENCE_GAIN * (made - images), -1, 1)
    picture = pictures.grid(
      [to_bytes(part) for part in (images, made, difference)],
      row_labels=("original", "reconstruction", f"difference x{DIFFERENCE_GAIN}"),
      title=f"step {step}, {title}",
    )
    pictures.save(picture, workdir / "samples" / f"step_{step:07d}.png")
    writer.write_images(step, {"samples": np.asarray(picture)[None, :, :, None]})

  return show


def reconstruct(
  experiment: settings_lib.AutoencoderExperiment,
  programs: programs_lib.AutoencoderPrograms,
  params: types.Params,
  images: np.ndarray,
) -> np.ndarray:
  """Images [n h w 1] in [-1, 1], the same on every host -> reconstructions, cut to it.

  They are worked off in batches of the run's size, the last one filled up.
  """
  size = min(experiment.train.batch_size, len(images))
  parts = experiment.mesh.shape["data"] * experiment.mesh.shape["fsdp"]
  size = -(-size // parts) * parts
  made = []
  for first in range(0, len(images), size):
    rows = np.minimum(np.arange(first, first + size), len(images) - 1)
    batch = sharding.place_whole_batch({"image": images[rows]}, experiment.mesh)
    made.append(np.asarray(programs.reconstruct(params, batch["image"])))
  return np.clip(np.concatenate(made)[: len(images)], -1, 1)


def to_bytes(images: np.ndarray) -> np.ndarray:
  """[-1, 1] to uint8."""
  return np.round((images + 1) * 127.5).astype(np.uint8)


def describe(network: autoencoder_lib.AutoencoderKL, image_size: int) -> str:
  """For the log: f4, 128x128 -> 32x32x4."""
  side = image_size // network.factor
  latent = f"{side}x{side}x{network.latent_channels}"
  return f"f{network.factor}, {image_size}x{image_size} -> {latent}"
