"""The compiled programs of an autoencoder's run, placed on its mesh.

They have the names and signatures of `training.programs.Programs`, which is what the
loop calls, and some besides. Parameters, averages and moments lie as for the denoiser.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders import image_features
from cxr_diffusion_jax.extras.autoencoder import discriminator as discriminator_lib
from cxr_diffusion_jax.extras.autoencoder import objective as objective_lib
from cxr_diffusion_jax.extras.autoencoder import settings as settings_lib
from cxr_diffusion_jax.extras.autoencoder import step as autoencoder_step
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import optimizer as optimizer_lib

# A posterior of standard deviation 0.05 to begin with: at 1, which a network of random
# weights would say, the latents' noise drowns the first thousand updates.
INITIAL_LOGVAR = -6.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderPrograms:
  """Compiled on first use.

  Attributes:
    init: () -> the state of step 0, of the seed alone.
    like: () -> shapes, types and shardings of a state, for restoring.
    train_step: (state, batch) -> (state, metrics); the first is donated.
    validation_step: (averaged parameters, batch) -> sums.
    latent_step: (averaged parameters, batch) -> means over the latents, see `step`.
    reconstruct: (averaged parameters, image) -> image from the posterior's mean.
    whole: averaged parameters -> the same, whole on every device.
  """

  init: Callable[[], state_lib.TrainState]
  like: Callable[[], state_lib.TrainState]
  train_step: Callable[
    [state_lib.TrainState, types.Batch],
    tuple[state_lib.TrainState, dict[str, jax.Array]],
  ]
  validation_step: Callable[[types.Params, types.Batch], dict[str, jax.Array]]
  latent_step: Callable[[types.Params, types.Batch], dict[str, jax.Array]]
  reconstruct: Callable[[types.Params, types.Array], jax.Array]
  whole: Callable[[types.Params], types.Params]


def make_objective(
  experiment: settings_lib.AutoencoderExperiment,
  features: image_features.ImageFeatures | None = None,
) -> objective_lib.Objective:
  """What a run minimises.

  Args:
    experiment: what to train.
    features: the frozen encoder of its perceptual loss; None for none.
  """
  settings = experiment.discriminator
  adversary = None
  if settings.weight > 0:
    adversary = discriminator_lib.PatchDiscriminator(
      channels=settings.channels,
      num_layers=settings.num_layers,
      norm_groups=settings.norm_groups,
      dtype=experiment.network.dtype,
    )
  return objective_lib.Objective(
    network=experiment.network,
    adversary=adversary,
    loss=experiment.loss,
    discriminator=settings,
    features_fn=None if features is None else features.apply_fn,
  )


def make_embed(
  features: image_features.ImageFeatures,
) -> Callable[[types.Array], jax.Array]:
  """Image [b h w 1] in [-1, 1] -> embedding [b p] of a frozen encoder, compiled."""
  apply = jax.jit(lambda params, image: features.apply_fn(params, image)[1])
  return lambda image: apply(features.params, image)


def init_params(
  objective: objective_lib.Objective, key: jax.Array
) -> dict[str, types.Params]:
  """Parameters of the autoencoder, and of its adversary where there is one."""
  network = objective.network
  image = jnp.zeros((1, network.factor, network.factor, 1))
  params = network.init(key, image)["params"]
  bias = params["quant_conv"]["bias"].at[network.latent_channels :].set(INITIAL_LOGVAR)
  params["quant_conv"] = {**params["quant_conv"], "bias": bias}
  parts = {autoencoder_step.AUTOENCODER: params}
  if objective.adversary is not None:
    side = 2 ** (objective.adversary.num_layers + 2)
    made = objective.adversary.init(
      jax.random.fold_in(key, 1), jnp.zeros((1, side, side, 1))
    )
    parts[autoencoder_step.DISCRIMINATOR] = made["params"]
  return parts


def make_programs(
  experiment: settings_lib.AutoencoderExperiment,
  features: image_features.ImageFeatures | None = None,
) -> AutoencoderPrograms:
  """Builds the programs of a run; arguments as of `make_objective`."""
  objective = make_objective(experiment, features)
  optimizer = optimizer_lib.make_optimizer(
    experiment.optimizer, experiment.train.num_steps
  )
  key = denoiser_lib.stream_key(experiment.seed, denoiser_lib.INIT_STREAM)

  def create() -> state_lib.TrainState:
    return autoencoder_step.create(init_params(objective, key), optimizer)

  on_cpu = experiment.mesh.devices.flat[0].platform == "cpu"
  shapes = jax.eval_shape(create)
  shardings = sharding.state_shardings(shapes, experiment.mesh)
  whole = sharding.replicated(experiment.mesh)
  split = sharding.batch_sharding(experiment.mesh)
  # An argument, not a constant of the programs: it may be large.
  frozen = jax.device_put({} if features is None else features.params, whole)

  def compiled(function, of, out=whole, **options):
    return jax.jit(function, in_shardings=of, out_shardings=out, **options)

  train_step = compiled(
    functools.partial(
      autoencoder_step.train_step,
      objective,
      optimizer,
      seed=experiment.seed,
      ema_decay=experiment.train.ema_decay,
    ),
    (shardings, split, whole),
    (shardings, whole),
    donate_argnums=0,
  )
  of_batch = (shardings.ema_params, split)
  validation_step = compiled(
    functools.partial(autoencoder_step.validation_step, objective), (*of_batch, whole)
  )
  return AutoencoderPrograms(
    init=jax.jit(
      create,
      out_shardings=shardings,
      # As of the denoiser: it runs once, and is not worth optimising.
      compiler_options={"xla_backend_optimization_level": 0} if on_cpu else None,
    ),
    like=lambda: jax.tree.map(
      lambda shape, place: jax.ShapeDtypeStruct(
        shape.shape, shape.dtype, sharding=place
      ),
      shapes,
      shardings,
    ),
    train_step=lambda state, batch: train_step(state, batch, frozen),
    validation_step=lambda params, batch: validation_step(params, batch, frozen),
    latent_step=compiled(
      functools.partial(autoencoder_step.latent_step, objective), of_batch
    ),
    reconstruct=compiled(
      lambda params, image: experiment.network.apply({"params": params}, image),
      of_batch,
    ),
    whole=compiled(lambda params: params, (shardings.ema_params,)),
  )
