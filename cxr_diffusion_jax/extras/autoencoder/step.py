"""One update of an autoencoder and its discriminator, and one validation.

  image --crop--> encode, draw, decode --> losses --> gradients of both networks
  ema <- d ema + (1 - d) params of the autoencoder alone

Keys are folded from the seed, a stream's number and the step, as for the denoiser.
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
  """The state before the first update; each part of `params` has its own moments."""
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
    batch: `image` [b h w 1] in [-1, 1].

  Returns:
    The next state, and scalars: `loss` without the adversarial part, its terms,
    `grad_norm`, `latent_std`, and those of the discriminator if there is one.
  """
  key = denoiser_lib.stream_key(seed, denoiser_lib.TRAIN_STREAM)
  crop_key, noise_key = jax.random.split(jax.random.fold_in(key, state.step))
  image = crop(crop_key, batch["image"], objective.loss.crop_size)

  def reconstruct(params):
    mean, logvar = _encode(objective, params, image)
    latent = autoencoder_lib.sample_posterior(noise_key, mean, logvar)
    return _decode(objective, params, latent), mean, logvar, latent

  (output, mean, logvar, latent), pull = jax.vjp(reconstruct, state.params[AUTOENCODER])

  def dissimilarity(output):
    terms = objective_lib.dissimilarity(objective, frozen, output, image)
    terms = {name: term.mean() for name, term in terms.items()}
    return terms.pop("dissimilarity"), terms

  (loss, metrics), by_output = jax.value_and_grad(dissimilarity, has_aux=True)(output)
  kl, by_moments = jax.value_and_grad(
    lambda moments: objective_lib.divergence(objective, *moments).mean()
  )((mean, logvar))
  metrics = {"loss": loss + kl, "kl": kl, "latent_std": latent.std(), **metrics}
  changes = {}
  if objective.discriminator is not None:
    adversarial_by_output, scalars, changes = _adversarial(
      objective, optimizer, state, image, output, latent, by_output
    )
    by_output, metrics = by_output + adversarial_by_output, metrics | scalars
  (grads,) = pull((by_output, *by_moments, jnp.zeros_like(latent)))
  changes[AUTOENCODER] = _updated(optimizer, state, AUTOENCODER, grads)
  new_state = _next_state(state, changes, ema_decay)
  return new_state, metrics | {"grad_norm": optax.tree.norm(grads)}


def validation_step(
  objective: objective_lib.Objective,
  params: types.Params,
  batch: types.Batch,
  frozen: types.Params,
) -> dict[str, jax.Array]:
  """Sums the losses of a batch, reconstructed from the means of the posteriors.

  Returns:
    Sums over the `valid` images of the batch: `total` (the loss without noise and
    discriminator), `psnr` in dB, `kl`, the terms of `dissimilarity`, and `count`.
  """
  image = batch["image"]
  mean, logvar = _encode(objective, params, image)
  output = _decode(objective, params, mean)
  each = objective_lib.dissimilarity(objective, frozen, output, image)
  each["kl"] = objective_lib.divergence(objective, mean, logvar)
  each["total"] = each.pop("dissimilarity") + each["kl"]
  # As displayed: values beyond black and white are clipped.
  error = jnp.square(jnp.clip(output, -1, 1) - image).mean(axis=(1, 2, 3)) / 4
  each["psnr"] = -10 * jnp.log10(jnp.maximum(error, 1e-12))
  return _sums(each, batch["valid"])


def rows_step(
  objective: objective_lib.Objective,
  frozen: types.Params,
  state: state_lib.TrainState,
  batch: types.Batch,
  step: types.Array,
) -> dict[str, jax.Array]:
  """The `loss` of each row [b], without noise, crops and the discriminator."""
  del step
  params = state.params[AUTOENCODER]
  mean, logvar = _encode(objective, params, batch["image"])
  output = _decode(objective, params, mean)
  each = objective_lib.dissimilarity(objective, frozen, output, batch["image"])
  return {
    "loss": each["dissimilarity"] + objective_lib.divergence(objective, mean, logvar)
  }


def latent_step(
  objective: objective_lib.Objective, params: types.Params, batch: types.Batch
) -> dict[str, jax.Array]:
  """Sums over a batch the `mean` and mean `square` of each latent, and their `count`.

  Both are of latents drawn from the posteriors, in closed form: E z^2 = mean^2 + var.
  """
  mean, logvar = _encode(objective, params, batch["image"])
  moments = {"mean": mean, "square": jnp.square(mean) + jnp.exp(logvar)}
  each = {name: value.mean(axis=(1, 2, 3)) for name, value in moments.items()}
  return _sums(each, batch["valid"])


def _sums(each: Mapping[str, jax.Array], valid: types.Array) -> dict[str, jax.Array]:
  sums = {name: jnp.where(valid, value, 0.0).sum() for name, value in each.items()}
  return sums | {"count": valid.sum()}


def crop(key: jax.Array, image: types.Array, size: int) -> jax.Array:
  """A random square [b size size c] of each image [b h w c]; size 0 for all of it."""
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


def _adversarial(objective, optimizer, state, image, output, latent, by_output):
  """The adversarial gradient by the output, its scalars, the discriminator's update."""
  settings = objective.adversarial
  params = state.params[DISCRIMINATOR]
  output = jax.lax.stop_gradient(output)
  loss, adversarial_by_output = jax.value_and_grad(
    lambda output: -objective.logits(params, output).mean()
  )(output)
  ratio = jnp.ones(())
  if settings.adaptive:
    ratio = objective_lib.gradient_ratio(
      objective, state.params[AUTOENCODER], latent, by_output, adversarial_by_output
    )
  active = state.step >= settings.start_step
  weight = jnp.where(active, settings.weight * ratio, 0.0)

  def discriminator_loss(params):
    return objective_lib.hinge(
      objective.logits(params, image), objective.logits(params, output)
    )

  own_loss, grads = jax.value_and_grad(discriminator_loss)(params)
  after = _updated(optimizer, state, DISCRIMINATOR, grads)
  before = (params, state.opt_state[DISCRIMINATOR])
  change = jax.tree.map(lambda new, old: jnp.where(active, new, old), after, before)
  scalars = {
    "adversarial": loss,
    "adversarial_weight": weight,
    "discriminator_loss": own_loss,
  }
  return weight * adversarial_by_output, scalars, {DISCRIMINATOR: change}


def _next_state(
  state: state_lib.TrainState,
  changes: Mapping[str, tuple[types.Params, optax.OptState]],
  ema_decay: float,
) -> state_lib.TrainState:
  """The state after an update; `changes` are each part's parameters and moments."""
  params, opt_state = (
    {name: change[i] for name, change in changes.items()} for i in (0, 1)
  )
  decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
  return state_lib.TrainState(
    step=state.step + 1,
    params=params,
    ema_params=optax.incremental_update(
      params[AUTOENCODER], state.ema_params, 1.0 - decay
    ),
    opt_state=opt_state,
  )


def _updated(optimizer, state, name, grads) -> tuple[types.Params, optax.OptState]:
  params = state.params[name]
  updates, opt_state = optimizer.update(grads, state.opt_state[name], params)
  return optax.apply_updates(params, updates), opt_state


def _encode(objective, params, image) -> tuple[jax.Array, jax.Array]:
  return objective.network.apply({"params": params}, image, method="encode")


def _decode(objective, params, latent) -> jax.Array:
  return objective.network.apply({"params": params}, latent, method="decode")
