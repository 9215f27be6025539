"""The training half of a config: `build(config)` -> Experiment, with its recipe.

{data, optimizer, train, repa, parallel, seed} + Recipe --build--> Experiment
"""

from collections.abc import Sequence
import dataclasses

import jax

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import settings as data_settings
from cxr_diffusion_jax.encoders.elixr import choice as elixr_choice
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.run import diffusion_section, model_section, sections
from cxr_diffusion_jax.run import recipe as recipe_lib
from cxr_diffusion_jax.training import alignment as alignment_lib
from cxr_diffusion_jax.training import optimizer as optimizer_lib
from cxr_diffusion_jax.training import pretrained as pretrained_lib
from cxr_diffusion_jax.training import step as step_lib
from cxr_diffusion_jax.training import train_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """A recipe and how it is trained.

  Attributes:
    objective: what is minimised, with a codec without statistics; see
      `make_objective`.
    pretrained: the source of the initial parameters; None for `recipe.init_fn` only.
    config: the config as plain values, for checkpoints.
  """

  seed: int
  data: data_settings.DataSettings
  recipe: recipe_lib.Recipe
  objective: step_lib.Objective
  pretrained: pretrained_lib.Pretrained | None
  optimizer: optimizer_lib.OptimizerSettings
  train: train_settings.TrainSettings
  mesh: jax.sharding.Mesh
  config: artifacts.JsonMapping

  @property
  def alignment(self) -> alignment_lib.Alignment | None:
    """The alignment of the network's features, if any."""
    return self.objective.alignment

  @property
  def autoencoder(self) -> autoencoders.Autoencoder | None:
    """Encodes the latents that are denoised; None for a codec without one."""
    return self.recipe.autoencoder

  @property
  def targets(self) -> conditioning.Needs | None:
    """Columns that only training reads, besides the path's own."""
    return None if self.alignment is None else self.alignment.needs

  def make_objective(self, statistics: artifacts.JsonMapping) -> step_lib.Objective:
    """Returns the objective with what follows from the records' statistics."""
    denoiser = self.recipe.bound(self.objective.denoiser, statistics)
    variance = denoiser.codec.mode_variance
    return dataclasses.replace(
      self.objective,
      denoiser=denoiser,
      time_sampler=self.objective.time_sampler.for_variance(variance),
    )


def build(
  config: recipe_lib.Config, devices: Sequence[types.Device] | None = None
) -> Experiment:
  """Reads a config.

  Args:
    devices: the devices of the mesh, such as those of a topology that is compiled
      for; None for those of this run.

  Raises:
    errors.InputError: an unknown key, a missing one, or a value out of range.
  """
  plain = recipe_lib.read_config(config)
  if not isinstance(plain["seed"], int) or not 0 <= plain["seed"] < 2**32:
    raise errors.InputError(f"config.seed={plain['seed']}", "0 to 4294967295")
  data = sections.make(data_settings.DataSettings, "data", plain["data"])
  plain["conditioning"] = elixr_choice.settle(plain["conditioning"], data.root)
  train = sections.make(train_settings.TrainSettings, "train", plain["train"])
  optimizer = sections.make(
    optimizer_lib.OptimizerSettings, "optimizer", plain["optimizer"]
  )
  mesh = sections.make(
    mesh_lib.make_mesh, "parallel", plain["parallel"], given={"devices": devices}
  )
  recipe = recipe_lib.build(plain, mesh=mesh)
  conditioner, drop_rates = recipe_lib.conditioner_section(plain)
  pretrained = pretrained_lib.read(
    plain["model"], recipe.network, recipe.denoiser.process.prediction
  )
  network, alignment = alignment_lib.attach(
    sections.make(alignment_lib.RepaSettings, "repa", plain.get("repa", {})),
    recipe.network,
    model_section.empty_inputs(recipe.latent_shape, conditioner.streams),
    conditioner.needs,
  )
  train.check_batch_size(mesh, optimizer.accumulation)
  if pretrained is not None and train.init_from:
    raise errors.InputError(
      "config.model.pretrained with config.train.init_from", "one of them"
    )
  diffusion = diffusion_section.build(plain["diffusion"])
  return Experiment(
    seed=plain["seed"],
    data=data,
    recipe=recipe,
    objective=step_lib.Objective(
      denoiser=dataclasses.replace(recipe.denoiser, apply_fn=network.apply),
      time_sampler=diffusion["time_sampler"],
      weighting=diffusion["weighting"],
      drop_rates=drop_rates,
      augment=data.augment,
      alignment=alignment,
    ),
    pretrained=pretrained,
    optimizer=optimizer,
    train=train,
    mesh=mesh,
    config=plain,
  )
