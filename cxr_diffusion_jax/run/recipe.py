"""The only reader of a config: `build(config)` turns it into typed, checked objects.

  ConfigDict --build--> Experiment(data, conditioner, process, ..., train) --> the rest

Below this file there are only typed arguments. A key that nothing reads is an error
that names the nearest keys; so is a value that a constructor refuses.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import ml_collections

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import settings as data_settings
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.run import (
  codec_section,
  diffusion_section,
  model_section,
  sections,
)
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.training import alignment as alignment_lib
from cxr_diffusion_jax.training import optimizer as optimizer_lib
from cxr_diffusion_jax.training import pretrained as pretrained_lib
from cxr_diffusion_jax.training import step as step_lib
from cxr_diffusion_jax.training import train_settings

SECTIONS = (
  "codec",
  "conditioning",
  "data",
  "diffusion",
  "model",
  "optimizer",
  "parallel",
  "repa",
  "sample",
  "train",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """All of a run but its data: typed, checked, without side effects.

  Attributes:
    seed: of everything random.
    data: which X-rays.
    conditioner: the conditioning path.
    make_codec: statistics of the records -> codec.
    make_objective: codec -> objective.
    init_fn: (key) -> parameters of the denoiser.
    pretrained: where the first parameters come from; None for `init_fn` alone.
    latent_shape: (h, w, c) of what is denoised.
    optimizer: how parameters are updated.
    train: how long.
    sample: how images are drawn.
    alignment: what features are pulled to in training, or None.
    autoencoder: whose latents are denoised, read from a column; None for none.
    mesh: the devices.
    config: the config as plain values, for checkpoints.
  """

  seed: int
  data: data_settings.DataSettings
  conditioner: conditioning.Conditioner
  make_codec: Callable[[Mapping[str, Any]], codec_lib.Codec]
  make_objective: Callable[[codec_lib.Codec], step_lib.Objective]
  init_fn: Callable[[jax.Array], types.Params]
  pretrained: pretrained_lib.Pretrained | None
  latent_shape: tuple[int, int, int]
  optimizer: optimizer_lib.OptimizerSettings
  train: train_settings.TrainSettings
  sample: generate_lib.SampleSettings
  alignment: alignment_lib.Alignment | None
  autoencoder: autoencoders.Autoencoder | None
  mesh: jax.sharding.Mesh
  config: Mapping[str, Any]

  @property
  def targets(self) -> conditioning.Needs | None:
    """What training reads beside the path's own columns; sampling does not."""
    return None if self.alignment is None else self.alignment.needs


def build(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Experiment:
  """Reads a config.

  Args:
    config: as `configs/default.py` makes it, or as plain values.

  Raises:
    errors.InputError: an unknown key, a missing one, or a value out of range.
  """
  plain = sections.plain(config)
  sections.check_keys("config", plain, ("seed", *SECTIONS))
  # `repa` is an option: what does not name it goes without.
  needed = ("seed", *(name for name in SECTIONS if name != "repa"))
  missing = [name for name in needed if name not in plain]
  if missing:
    raise errors.InputError(f"a config without {', '.join(missing)}")
  if not isinstance(plain["seed"], int) or not 0 <= plain["seed"] < 2**32:
    raise errors.InputError(f"config.seed={plain['seed']}", "0 to 4294967295")
  data = sections.make(data_settings.DataSettings, "data", plain["data"])
  train = sections.make(train_settings.TrainSettings, "train", plain["train"])
  optimizer = sections.make(
    optimizer_lib.OptimizerSettings, "optimizer", plain["optimizer"]
  )
  mesh = sections.make(mesh_lib.make_mesh, "parallel", plain["parallel"])
  conditioner, drop_rates = _conditioner(plain["conditioning"])
  codec = codec_section.build(plain["codec"])
  latent_shape = codec.make({}).latent_shape(data.image_size)
  model, init_fn = model_section.build(
    plain["model"], latent_shape, conditioner.streams
  )
  pretrained = pretrained_lib.read(plain["model"], model)
  model, alignment = alignment_lib.attach(
    sections.make(alignment_lib.RepaSettings, "repa", plain.get("repa", {})),
    model,
    model_section.empty_inputs(latent_shape, conditioner.streams),
    conditioner.needs,
  )
  _check_batch(train, optimizer, mesh)
  diffusion = diffusion_section.build(plain["diffusion"])

  def make_objective(codec: codec_lib.Codec) -> step_lib.Objective:
    return step_lib.Objective(
      apply_fn=model.apply,
      codec=codec,
      conditioner=conditioner,
      drop_rates=drop_rates,
      alignment=alignment,
      **diffusion,
    )

  return Experiment(
    seed=plain["seed"],
    data=data,
    conditioner=conditioner,
    make_codec=codec.make,
    make_objective=make_objective,
    init_fn=init_fn,
    pretrained=pretrained,
    latent_shape=latent_shape,
    optimizer=optimizer,
    train=train,
    sample=sections.make(generate_lib.SampleSettings, "sample", plain["sample"]),
    alignment=alignment,
    autoencoder=codec.autoencoder,
    mesh=mesh,
    config=plain,
  )


def _conditioner(
  section: Mapping[str, Any],
) -> tuple[conditioning.Conditioner, tuple[float, ...]]:
  section = dict(section)
  rates = section.pop("drop_rate", 0.1)
  make = conditioning.load(section.pop("name", ""))
  conditioner = sections.make(make, "conditioning", section, also=("name", "drop_rate"))
  streams = conditioner.streams
  rates = tuple(rates) if isinstance(rates, list | tuple) else (rates,) * len(streams)
  if len(rates) != len(streams) or not all(0 <= rate <= 1 for rate in rates):
    raise errors.InputError(
      f"config.conditioning.drop_rate={rates}",
      f"one probability, or {len(streams)}: "
      + ", ".join(stream.name for stream in streams),
    )
  return conditioner, rates


def _check_batch(
  train: train_settings.TrainSettings,
  optimizer: optimizer_lib.OptimizerSettings,
  mesh: jax.sharding.Mesh,
) -> None:
  parts = mesh.shape["data"] * mesh.shape["fsdp"] * optimizer.accumulation
  if train.batch_size % parts:
    raise errors.InputError(
      f"config.train.batch_size={train.batch_size}",
      f"a multiple of {parts}: devices that share a batch"
      f" ({parts // optimizer.accumulation})"
      f" times config.optimizer.accumulation ({optimizer.accumulation})",
    )
