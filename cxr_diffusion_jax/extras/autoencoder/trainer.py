"""Trains an autoencoder with `loop.train`.

validation images --encode, decode--> loss, PSNR, a picture of some of them
training images --encode--> mean and spread of the latents
  --> WORKDIR/autoencoder, in diffusers' format: a value of `config.codec.folder`
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, pictures, types
from cxr_diffusion_jax.encoders import image_features
from cxr_diffusion_jax.extras.autoencoder import objective as objective_lib
from cxr_diffusion_jax.extras.autoencoder import settings as settings_lib
from cxr_diffusion_jax.extras.autoencoder import step as autoencoder_step
from cxr_diffusion_jax.interop import diffusers
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.parallel import batches as batches_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.sampling import generate
from cxr_diffusion_jax.training import compiled
from cxr_diffusion_jax.training import optimizer as optimizer_lib

if TYPE_CHECKING:
  from PIL import Image

# Below WORKDIR.
FOLDER = "autoencoder"

# Training images that the latents' mean and spread are measured on.
MAX_STATISTIC_IMAGES = 512

# Differences are scaled by this in the picture, around middle grey.
DIFFERENCE_GAIN = 4

# The initial posterior has a standard deviation of 0.05. With that of random weights,
# about 1, noise would dominate the first thousand updates.
INITIAL_LOGVAR = -6.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs(compiled.Programs):
  """Functions of averaged parameters and more, compiled on first use."""

  # batch -> sums over the latents, see `step`.
  latent_step: Callable[[types.Params, types.Batch], dict[str, jax.Array]]
  # image -> image from the posterior's mean.
  reconstruct: Callable[[types.Params, types.Array], jax.Array]
  # -> the same parameters, whole on every device.
  gather: Callable[[types.Params], types.Params]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderTrainer:
  """A `loop.Trainable`."""

  experiment: settings_lib.AutoencoderExperiment
  dataset: dataset_lib.Dataset
  programs: Programs
  workdir: pathlib.Path  # where validations export the autoencoder

  def batches(self, start_step: int) -> Iterator[types.Batch]:
    return compiled.train_batches(
      self.dataset.source("train"), self.experiment, start_step
    )

  def validate(self, params: types.Params) -> dict[str, float]:
    """The validation loss and its parts. Also exports the autoencoder."""
    sums = compiled.summed(
      self.programs.validation_step,
      params,
      self.dataset.source("validation"),
      self.experiment,
      max_batches=self.experiment.train.validation_batches,
    )
    count = sums.pop("count")
    means = {name: value / count for name, value in sums.items()}
    loss = means.pop("total")
    if np.isfinite(loss):
      self.export(params)
    return {"loss": loss, **means}

  def show(self, params: types.Params, step: int) -> "Image.Image | None":
    """Validation images, their reconstructions and the differences."""
    source = self.dataset.source("validation")
    count = min(self.experiment.sample.num_images, len(source))
    rows = np.linspace(0, len(source) - 1, count).astype(int).tolist()
    images = source.batch(rows)["image"]
    reconstructions = self.reconstruct(params, images)
    if jax.process_index() > 0:
      return None
    difference = np.clip(DIFFERENCE_GAIN * (reconstructions - images), -1, 1)
    return pictures.grid(
      [list(generate.to_uint8(part)) for part in (images, reconstructions, difference)],
      row_labels=("original", "reconstruction", f"difference x{DIFFERENCE_GAIN}"),
      title=f"step {step}, f{self.experiment.network.factor}, {self.dataset.kind}",
    )

  def reconstruct(self, params: types.Params, images: np.ndarray) -> np.ndarray:
    """Reconstructs images [n h w 1] in [-1, 1], the same on every host."""
    mesh = self.experiment.mesh
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    size = min(self.experiment.train.batch_size, -(-len(images) // parts) * parts)

    def reconstruct(rows: np.ndarray) -> jax.Array:
      batch = sharding.place_whole_batch({"image": images[rows]}, mesh)
      return self.programs.reconstruct(params, batch["image"])

    return np.clip(batches_lib.in_batches(reconstruct, len(images), size), -1, 1)

  def export(self, params: types.Params) -> None:
    """Writes WORKDIR/autoencoder with the factors that standardise its latents.

    Raises:
      errors.InputError: latents without a spread, or a folder that cannot be written.
    """
    mean, std = self.latent_statistics(params)
    if not std > 0 or not np.isfinite(std):
      raise errors.InputError(
        f"latents of standard deviation {std}",
        "a number above 0",
        "lower config.loss.kl_weight, or train longer",
      )
    network = self.experiment.network.clone(scaling_factor=1 / std, shift_factor=mean)
    # On every host, because each holds a part.
    whole = jax.device_get(self.programs.gather(params))
    if jax.process_index() == 0:
      diffusers.save_autoencoder(self.workdir / FOLDER, network, whole)

  def latent_statistics(self, params: types.Params) -> tuple[float, float]:
    """Mean and standard deviation of all numbers in the latents of training images.

    Rombach et al. 2022 (2112.10752), appendix G: one factor for all channels.
    """
    sums = compiled.summed(
      self.programs.latent_step,
      params,
      self.dataset.source("train"),
      self.experiment,
      max_batches=-(-MAX_STATISTIC_IMAGES // self.experiment.train.batch_size),
    )
    mean = sums["mean"] / sums["count"]
    return mean, float(np.sqrt(max(sums["square"] / sums["count"] - mean**2, 0.0)))


def make_objective(
  experiment: settings_lib.AutoencoderExperiment,
  features: image_features.ImageFeatures | None = None,
) -> objective_lib.Objective:
  """Builds the objective of a run, with a frozen encoder if it has perceptual loss."""
  settings, discriminator = experiment.discriminator, None
  if settings.weight > 0:
    sizes = {x: getattr(settings, x) for x in ("channels", "num_layers", "norm_groups")}
    discriminator = objective_lib.PatchDiscriminator(
      **sizes, dtype=experiment.network.dtype
    )
  return objective_lib.Objective(
    network=experiment.network,
    discriminator=discriminator,
    loss=experiment.loss,
    adversarial=settings,
    features_fn=None if features is None else features.apply_fn,
  )


def init_params(
  objective: objective_lib.Objective, key: jax.Array
) -> dict[str, types.Params]:
  """Parameters of the autoencoder and of its discriminator, if there is one."""
  network = objective.network
  image = jnp.zeros((1, network.factor, network.factor, 1))
  params = dict(network.init(key, image)["params"])
  bias = jnp.asarray(params["quant_conv"]["bias"])
  bias = bias.at[network.latent_channels :].set(INITIAL_LOGVAR)
  params["quant_conv"] = {**params["quant_conv"], "bias": bias}
  parts: dict[str, types.Params] = {autoencoder_step.AUTOENCODER: params}
  if objective.discriminator is not None:
    side = 2 ** (objective.discriminator.num_layers + 2)
    variables = objective.discriminator.init(
      jax.random.fold_in(key, 1), jnp.zeros((1, side, side, 1))
    )
    parts[autoencoder_step.DISCRIMINATOR] = variables["params"]
  return parts


def make_programs(
  experiment: settings_lib.AutoencoderExperiment,
  features: image_features.ImageFeatures | None = None,
) -> Programs:
  """Builds the compiled functions of a run."""
  objective = make_objective(experiment, features)
  optimizer = optimizer_lib.make_optimizer(
    experiment.optimizer, experiment.train.num_steps
  )
  key = denoiser_lib.stream_key(experiment.seed, denoiser_lib.INIT_STREAM)
  frozen = {} if features is None else features.params

  def create() -> state_lib.TrainState:
    return autoencoder_step.create(init_params(objective, key), optimizer)

  network = experiment.network
  compiler = compiled.Compiler(
    create, mesh=experiment.mesh, tensor_parallel=network.tensor_parallel
  )
  train_step = functools.partial(
    autoencoder_step.train_step,
    objective,
    optimizer,
    seed=experiment.seed,
    ema_decay=experiment.train.ema_decay,
  )
  validation_step, latent_step = (
    functools.partial(step, objective)
    for step in (autoencoder_step.validation_step, autoencoder_step.latent_step)
  )
  return Programs(
    init=compiler.create,
    like=compiler.like,
    train_step=compiler.update(train_step, frozen),
    validation_step=compiler.evaluate(validation_step, frozen),
    examine=compiler.examine(
      functools.partial(autoencoder_step.rows_step, objective, frozen)
    ),
    latent_step=compiler.evaluate(latent_step),
    reconstruct=compiler.evaluate(
      lambda params, image: network.apply({"params": params}, image)
    ),
    gather=compiler.gather,
  )


def describe(network: autoencoder_lib.AutoencoderKL, image_size: int) -> str:
  """For the log: f4, 128x128 -> 32x32x4."""
  side = image_size // network.factor
  latent = f"{side}x{side}x{network.latent_channels}"
  return f"f{network.factor}, {image_size}x{image_size} -> {latent}"
