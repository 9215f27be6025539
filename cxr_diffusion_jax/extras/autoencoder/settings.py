"""A config of an autoencoder turned into typed, checked objects.

ConfigDict --build--> AutoencoderExperiment(data, network, loss, discriminator, ...)
"""

import dataclasses

import jax
import ml_collections

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data import settings as data_settings
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.run import model_section, sections
from cxr_diffusion_jax.training import optimizer as optimizer_lib
from cxr_diffusion_jax.training import train_settings

SECTIONS = (
  "data", "discriminator", "loss", "model", "optimizer", "parallel", "sample", "train",
)  # fmt: skip

RECONSTRUCTIONS = ("l1", "charbonnier")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
  """The losses of a reconstruction.

  Attributes:
    reconstruction: 'l1', or 'charbonnier', which is smooth near zero.
    kl_weight: weight of the posterior's divergence in nats per pixel of the image.
    perceptual: frozen encoder that compares features: 'none', a folder or hub id of a
      CLIP or a DINOv2, or 'auto' for one in the hub's local cache, if any.
    perceptual_weight: weight of that distance.
    crop_size: side of the random crops for training; 0 for whole images.
  """

  reconstruction: str = "l1"
  kl_weight: float = 1e-6
  perceptual: str = "auto"
  perceptual_weight: float = 1.0
  crop_size: int = 0

  def __post_init__(self):
    if self.reconstruction not in RECONSTRUCTIONS:
      raise errors.InputError(
        f"config.loss.reconstruction={self.reconstruction!r}",
        " or ".join(RECONSTRUCTIONS),
      )
    for name in ("kl_weight", "perceptual_weight", "crop_size"):
      if not 0 <= getattr(self, name) < float("inf"):
        raise errors.InputError(
          f"config.loss.{name}={getattr(self, name)}", "a finite number, 0 or more"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
  """The discriminator, and when and how much it counts.

  Attributes:
    weight: weight of the adversarial loss; 0 for no discriminator.
    adaptive: multiply the weight by the ratio of the gradients of both losses at the
      decoder's last kernel (Esser et al. 2021, 2012.09841, equation 7).
    start_step: updates before it is trained and counts. It costs the same before.
    channels: channels of its first layer.
    num_layers: number of its layers that halve the side.
    norm_groups: divides `channels`.
  """

  weight: float = 0.0
  adaptive: bool = True
  start_step: int = 0
  channels: int = 64
  num_layers: int = 3
  norm_groups: int = 8

  def __post_init__(self):
    for name in ("weight", "start_step", "channels", "num_layers", "norm_groups"):
      least = 0 if name in ("weight", "start_step") else 1
      if getattr(self, name) < least:
        raise errors.InputError(
          f"config.discriminator.{name}={getattr(self, name)}", f"{least} or more"
        )
    if self.channels % self.norm_groups:
      raise errors.InputError(
        f"config.discriminator.channels={self.channels} with norm_groups"
        f" {self.norm_groups}",
        "groups that divide the channels",
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureSettings:
  """The picture of so many validation images and their reconstructions."""

  num_images: int = 8

  def __post_init__(self):
    if self.num_images < 1:
      raise errors.InputError(
        f"config.sample.num_images={self.num_images}", "1 or more"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderExperiment:
  """A run without its data."""

  seed: int
  data: data_settings.DataSettings
  network: autoencoder_lib.AutoencoderKL  # its scaling factor is measured on export
  loss: LossSettings
  discriminator: DiscriminatorSettings
  optimizer: optimizer_lib.OptimizerSettings  # of both networks
  train: train_settings.TrainSettings
  sample: PictureSettings
  mesh: jax.sharding.Mesh
  config: artifacts.JsonMapping
  autoencoder: None = None  # no latents are read


def build(
  config: ml_collections.ConfigDict | artifacts.JsonMapping,
) -> AutoencoderExperiment:
  """Reads a config such as that of `configs/autoencoder.py`.

  Raises:
    errors.InputError: an unknown key, a missing one, or a value out of range.
  """
  plain = sections.plain(config)
  sections.check_keys("config", plain, ("seed", *SECTIONS))
  missing = [name for name in ("seed", *SECTIONS) if name not in plain]
  if missing:
    raise errors.InputError(
      f"a config without {', '.join(missing)}",
      fix="--config configs/autoencoder.py; denoisers are trained by"
      " `python -m cxr_diffusion_jax.main`",
    )
  if not isinstance(plain["seed"], int) or not 0 <= plain["seed"] < 2**32:
    raise errors.InputError(f"config.seed={plain['seed']}", "0 to 4294967295")
  makers = {
    "data": data_settings.DataSettings,
    "loss": LossSettings,
    "discriminator": DiscriminatorSettings,
    "optimizer": optimizer_lib.OptimizerSettings,
    "train": train_settings.TrainSettings,
    "sample": PictureSettings,
  }
  mesh = sections.make(
    mesh_lib.make_mesh, "parallel", plain["parallel"], given={"devices": None}
  )
  values, dtype = model_section.fields(plain["model"], mesh_lib.platform(mesh))
  channels = {"in_channels": 1, "out_channels": 1, "dtype": dtype}
  experiment = AutoencoderExperiment(
    seed=plain["seed"],
    network=sections.make(
      autoencoder_lib.AutoencoderKL,
      "model",
      values,
      given={**channels, "scaling_factor": 1.0, "shift_factor": 0.0},
      also=("dtype", "name"),
    ),
    mesh=mesh,
    config=plain,
    **{name: sections.make(make, name, plain[name]) for name, make in makers.items()},
  )
  _check(experiment)
  return experiment


def _check(experiment: AutoencoderExperiment) -> None:
  train, factor = experiment.train, experiment.network.factor
  size, crop = experiment.data.image_size, experiment.loss.crop_size
  multiple = f"a multiple of {factor}, the autoencoder's factor"
  accumulation = experiment.optimizer.accumulation
  for name, value, right, expected in (
    ("data.image_size", size, size % factor == 0, multiple),
    ("loss.crop_size", crop, crop % factor == 0, multiple),
    ("loss.crop_size", crop, crop <= size, f"{size}, the image's size, or less"),
    (
      "optimizer.accumulation",
      accumulation,
      accumulation == 1,
      "1, with a lower config.train.batch_size or config.loss.crop_size instead",
    ),
    ("train.init_from", train.init_from, not train.init_from, "'': no denoiser"),
    ("train.power_ema", train.power_ema, not train.power_ema, "(): no denoiser"),
  ):
    if not right:
      raise errors.InputError(f"config.{name}={value}", expected)
  train.check_batch_size(experiment.mesh)
