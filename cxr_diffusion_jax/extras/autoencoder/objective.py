"""What an autoencoder minimises, and what its adversary does.

L = reconstruction + w_p perceptual + w_kl KL / pixels + lambda w_g adversarial
reconstruction   mean |made - image|, or its smooth Charbonnier form
perceptual       distance of a frozen encoder's features (conditioning.image_features)
KL               of each posterior from the standard normal, in nats
adversarial      -mean D(made);  D minimises the hinge loss (2012.09841, section 3.1)
lambda           |d reconstruction / d k| / |d adversarial / d k|, k the last kernel
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders import image_features
from cxr_diffusion_jax.extras.autoencoder import discriminator as discriminator_lib
from cxr_diffusion_jax.extras.autoencoder import settings as settings_lib
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib

# Of the Charbonnier loss sqrt(d^2 + eps^2), in the units of pixels in [-1, 1].
EPSILON = 1e-3

# Largest lambda, where the adversary's gradient all but vanishes.
MAX_RATIO = 1e4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """All that the losses need besides parameters, batch and key.

  Attributes:
    network: the autoencoder.
    adversary: the discriminator; None for none.
    loss: weights of the losses.
    discriminator: when and how much the adversary counts.
    features_fn: (frozen parameters, image) -> (states, embedding); None for none.
  """

  network: autoencoder_lib.AutoencoderKL
  adversary: discriminator_lib.PatchDiscriminator | None
  loss: settings_lib.LossSettings
  discriminator: settings_lib.DiscriminatorSettings
  features_fn: Callable[..., tuple[tuple[jax.Array, ...], jax.Array]] | None

  def judge(self, params: types.Params, image: types.Array) -> jax.Array:
    """The adversary's logits of images."""
    return self.adversary.apply({"params": params}, image)


def likeness(
  objective: Objective, frozen: types.Params, made: types.Array, image: types.Array
) -> dict[str, jax.Array]:
  """How unlike reconstructions are, of each image: [b], all to be small.

  Args:
    objective: with the weights.
    frozen: parameters of the frozen encoder; anything where there is none.
    made: [b h w 1] reconstructions.
    image: [b h w 1] in [-1, 1].

  Returns:
    `reconstruction`, `perceptual` where there is an encoder, and their weighted sum
    `unlikeness`.
  """
  difference = made - image
  if objective.loss.reconstruction == "l1":
    each = jnp.abs(difference)
  else:
    each = jnp.sqrt(jnp.square(difference) + EPSILON**2)
  terms = {"reconstruction": each.mean(axis=(1, 2, 3))}
  total = terms["reconstruction"]
  if objective.features_fn is not None:
    states, _ = objective.features_fn(frozen, made)
    wanted, _ = objective.features_fn(frozen, image)
    terms["perceptual"] = image_features.distance(states, wanted)
    total = total + objective.loss.perceptual_weight * terms["perceptual"]
  return terms | {"unlikeness": total}


def divergence(
  objective: Objective, mean: types.Array, logvar: types.Array
) -> jax.Array:
  """The weighted divergence of each posterior, for each pixel of its image: [b]."""
  pixels = mean.shape[1] * mean.shape[2] * objective.network.factor**2
  kl = autoencoder_lib.kl_divergence(mean, logvar)
  return objective.loss.kl_weight * kl / pixels


def hinge(real: types.Array, made: types.Array) -> jax.Array:
  """The adversary's loss: logits of real images above 1, of made ones below -1."""
  return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + made).mean())


def gradient_ratio(
  objective: Objective,
  params: types.Params,
  latent: types.Array,
  by_image: types.Array,
  adversarial_by_image: types.Array,
) -> jax.Array:
  """lambda: the size of one loss's gradient over the other's, at the last kernel.

  Args:
    objective: with the network.
    params: of the autoencoder.
    latent: [b h' w' z] that was decoded.
    by_image: [b h w 1] gradient of the first loss by the decoded images.
    adversarial_by_image: the same of the second.

  Returns:
    [] from 0 to `MAX_RATIO`.
  """
  decoder = params["decoder"]

  def decode(kernel):
    last = {**decoder["conv_out"], "kernel": kernel}
    changed = {**params, "decoder": {**decoder, "conv_out": last}}
    return objective.network.apply({"params": changed}, latent, method="decode")

  # Only the last layer's part of either backward pass is left when this is compiled.
  _, pull = jax.vjp(decode, decoder["conv_out"]["kernel"])
  size = jnp.linalg.norm(pull(by_image)[0])
  adversarial_size = jnp.linalg.norm(pull(adversarial_by_image)[0])
  return jnp.clip(size / (adversarial_size + 1e-6), 0.0, MAX_RATIO)
