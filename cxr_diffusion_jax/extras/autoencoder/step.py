"""One update of an autoencoder and its adversary, and one validation.

  image --crop--> encode, draw, decode --> losses --> both networks' gradients
  ema <- d ema + (1 - d) params of the autoencoder alone

Every function is callable unjitted. Keys are folded from the seed, a stream's number
and the step, as for the denoiser.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from cxr_diffusion_jax import types
from cxr_diffusion_jax.extras.autoencoder import objective as objective_lib
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import state as state_lib

AUTOENCODER, DISCRIMINATOR = "autoencoder", "discriminator"


def create(
  params: Mapping[str, types.Params], optimizer: optax.GradientTransformation
) -> state_lib.TrainState:
  """The state before the first update.

  Args:
    params: of `AUTOENCODER`, and of `DISCRIMINATOR` where there is one.
    optimizer: of each by itself.
  """
  return state_lib.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=dict(params),
    ema_params=jax.tree.map(jnp.copy, params[AUTOENCODER]),
    opt_state={name: optimizer.init(part) for name, part in params.items()},
  )


def train_step(
  objective: objective_lib.Objective,
  optimizer: optax.GradientTransformation,
  state: state_lib.TrainState,
  batch: types.Batch,
  frozen: types.Params,
  *,
  seed: int,
  ema_decay: float,
) -> tuple[state_lib.TrainState, dict[str, jax.Array]]:
  """Updates the state by one batch.

  Args:
    objective: what is minimised.
    optimizer: made for each part of `state.opt_state`.
    state: of `create`, or later.
    batch: `image` [b h w 1] in [-1, 1].
    frozen: parameters of the frozen encoder.
    seed: the run's seed.
    ema_decay: of the parameters' moving average.

  Returns:
    The state after it, and scalars: `loss` without the adversary's part, the losses it
    is made of, `grad_norm`, `latent_std`, and with an adversary its own.
  """
  key = denoiser_lib.stream_key(seed, denoiser_lib.TRAIN_STREAM)
  crop_key, noise_key = jax.random.split(jax.random.fold_in(key, state.step))
  image = crop(crop_key, batch["image"], objective.loss.crop_size)
  params = state.params[AUTOENCODER]

  def reconstruct(params):
    mean, logvar = _encode(objective, params, image)
    latent = autoencoder_lib.sample_posterior(noise_key, mean, logvar)
    return _decode(objective, params, latent), mean, logvar, latent

  (made, mean, logvar, latent), pull = jax.vjp(reconstruct, params)

  def unlike(made):
    terms = objective_lib.likeness(objective, frozen, made, image)
    terms = {name: term.mean() for name, term in terms.items()}
    return terms.pop("unlikeness"), terms

  (loss, metrics), by_image = jax.value_and_grad(unlike, has_aux=True)(made)
  kl, by_moments = jax.value_and_grad(
    lambda moments: objective_lib.divergence(objective, *moments).mean()
  )((mean, logvar))
  metrics = {"loss": loss + kl, "kl": kl, "latent_std": latent.std(), **metrics}
  changes = {}
  if objective.adversary is not None:
    part, told, changes = _adversary(
      objective, optimizer, state, image, made, latent, by_image
    )
    by_image, metrics = by_image + part, metrics | told
  (grads,) = pull((by_image, *by_moments, jnp.zeros_like(latent)))
  changes[AUTOENCODER] = _updated(optimizer, state, AUTOENCODER, grads)
  new = {name: change[0] for name, change in changes.items()}
  decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
  new_state = state_lib.TrainState(
    step=state.step + 1,
    params=new,
    ema_params=optax.incremental_update(
      new[AUTOENCODER], state.ema_params, 1.0 - decay
    ),
    opt_state={name: change[1] for name, change in changes.items()},
  )
  return new_state, metrics | {"grad_norm": optax.tree.norm(grads)}


def validation_step(
  objective: objective_lib.Objective,
  params: types.Params,
  batch: types.Batch,
  frozen: types.Params,
) -> dict[str, jax.Array]:
  """Sums the losses of a batch's reconstructions from their posteriors' means.

  Args:
    objective: what was minimised.
    params: averaged parameters of the autoencoder.
    batch: with `valid` [b] False on the padding of a last batch.
    frozen: parameters of the frozen encoder.

  Returns:
    `total` (the loss without noise and adversary), `psnr` in dB, `kl`, the terms of
    `objective.likeness`, each summed over the images, and their `count`.
  """
  image, valid = batch["image"], batch["valid"]
  mean, logvar = _encode(objective, params, image)
  made = _decode(objective, params, mean)
  each = objective_lib.likeness(objective, frozen, made, image)
  each["kl"] = objective_lib.divergence(objective, mean, logvar)
  each["total"] = each.pop("unlikeness") + each["kl"]
  # Of what is shown: values beyond black and white are cut.
  error = jnp.square(jnp.clip(made, -1, 1) - image).mean(axis=(1, 2, 3)) / 4
  each["psnr"] = -10 * jnp.log10(jnp.maximum(error, 1e-12))
  sums = {name: jnp.where(valid, value, 0.0).sum() for name, value in each.items()}
  return sums | {"count": valid.sum()}


def latent_step(
  objective: objective_lib.Objective, params: types.Params, batch: types.Batch
) -> dict[str, jax.Array]:
  """Means over a batch of a latent's numbers: `mean`, `square`, and `count` of images.

  Both are of latents drawn from the posteriors, in closed form: E z^2 = mean^2 + var.
  """
  valid = batch["valid"]
  mean, logvar = _encode(objective, params, batch["image"])
  moments = {"mean": mean, "square": jnp.square(mean) + jnp.exp(logvar)}
  sums = {
    name: jnp.where(valid, value.mean(axis=(1, 2, 3)), 0.0).sum()
    for name, value in moments.items()
  }
  return sums | {"count": valid.sum()}


def crop(key: jax.Array, image: types.Array, size: int) -> jax.Array:
  """A random square [b size size c] of each image [b h w c]; 0 for the whole image."""
  image = jnp.asarray(image, jnp.float32)
  b, height, width, channels = image.shape
  if not size or size == height == width:
    return image
  tops, lefts = (
    jax.random.randint(part, (b,), 0, side - size + 1)
    for part, side in zip(jax.random.split(key), (height, width), strict=True)
  )

  def cut(image, top, left):
    return jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels))

  return jax.vmap(cut)(image, tops, lefts)


def _adversary(objective, optimizer, state, image, made, latent, by_image):
  """The adversary's part of the images' gradient, its scalars, and its own update."""
  settings = objective.discriminator
  params = state.params[DISCRIMINATOR]
  made = jax.lax.stop_gradient(made)
  fooled, by_adversary = jax.value_and_grad(
    lambda made: -objective.judge(params, made).mean()
  )(made)
  ratio = jnp.ones(())
  if settings.adaptive:
    ratio = objective_lib.gradient_ratio(
      objective, state.params[AUTOENCODER], latent, by_image, by_adversary
    )
  active = state.step >= settings.start_step
  weight = jnp.where(active, settings.weight * ratio, 0.0)

  def judged(params):
    return objective_lib.hinge(
      objective.judge(params, image), objective.judge(params, made)
    )

  loss, grads = jax.value_and_grad(judged)(params)
  changed = _updated(optimizer, state, DISCRIMINATOR, grads)
  before = (params, state.opt_state[DISCRIMINATOR])
  kept = jax.tree.map(lambda new, old: jnp.where(active, new, old), changed, before)
  told = {
    "adversarial": fooled,
    "adversarial_weight": weight,
    "discriminator_loss": loss,
  }
  return weight * by_adversary, told, {DISCRIMINATOR: kept}


def _updated(optimizer, state, name, grads) -> tuple[types.Params, optax.OptState]:
  params, opt_state = state.params[name], state.opt_state[name]
  updates, opt_state = optimizer.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


def _encode(objective, params, image) -> tuple[jax.Array, jax.Array]:
  return objective.network.apply({"params": params}, image, method="encode")


def _decode(objective, params, latent) -> jax.Array:
  return objective.network.apply({"params": params}, latent, method="decode")
