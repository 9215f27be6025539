"""The loss of an autoencoder and of its discriminator.

L = reconstruction + w_p perceptual + w_kl KL / pixels + lambda w_g adversarial
reconstruction   mean |output - image|, or its smooth Charbonnier form
perceptual       distance of a frozen encoder's features (encoders.image_features)
KL               of each posterior from the standard normal, in nats
adversarial      -mean D(output);  D minimises the hinge loss (2012.09841, section 3.1)
lambda           |d reconstruction / d k| / |d adversarial / d k|, k the last kernel
"""

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders import image_features
from cxr_diffusion_jax.extras.autoencoder import settings as settings_lib
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib

# Of the Charbonnier loss sqrt(d^2 + eps^2), in the units of pixels in [-1, 1].
EPSILON = 1e-3

# Largest lambda, for an adversarial gradient near zero.
MAX_RATIO = 1e4


class PatchDiscriminator(nn.Module):
  """Gives one logit for each overlapping patch, of 70 pixels with three layers.

  Isola et al. 2017 (1611.07004), section 3.2.2, with group instead of batch
  normalisation (Wu and He 2018, 1803.08494): logits do not depend on the batch.
  """

  channels: int = 64  # of the first layer; they double per layer, up to eight times
  num_layers: int = 3  # that halve the side
  norm_groups: int = 8
  dtype: jnp.dtype = jnp.float32  # of the convolutions; norms and logits are float32

  @nn.compact
  def __call__(self, image: types.Array) -> jax.Array:
    """Image [b h w c] in [-1, 1] -> logits [b h' w' 1] float32, high where real."""

    def conv(name, x, channels, stride, dtype=self.dtype):
      module = nn.Conv(channels, (4, 4), stride, padding=1, dtype=dtype, name=name)
      return module(x.astype(dtype))

    def active(x):
      return nn.leaky_relu(x, 0.2)

    x = active(conv("conv_in", image, self.channels, 2))
    for i in range(1, self.num_layers + 1):
      stride = 2 if i < self.num_layers else 1
      x = conv(f"convs_{i}", x, self.channels * 2 ** min(i, 3), stride)
      norm = nn.GroupNorm(self.norm_groups, dtype=jnp.float32, name=f"norms_{i}")
      x = active(norm(x))
    return conv("conv_out", x, 1, 1, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """Everything the losses need besides parameters, batch and key."""

  network: autoencoder_lib.AutoencoderKL
  discriminator: PatchDiscriminator | None
  loss: settings_lib.LossSettings
  adversarial: settings_lib.DiscriminatorSettings
  # (frozen parameters, image) -> (states, embedding)
  features_fn: Callable[..., tuple[tuple[jax.Array, ...], jax.Array]] | None

  def logits(self, params: types.Params, image: types.Array) -> jax.Array:
    """The discriminator's logits of images; only with a discriminator."""
    assert self.discriminator is not None
    return jnp.asarray(self.discriminator.apply({"params": params}, image))


def dissimilarity(
  objective: Objective, frozen: types.Params, output: types.Array, image: types.Array
) -> dict[str, jax.Array]:
  """How much each reconstruction differs from its image.

  Args:
    frozen: parameters of the frozen encoder; unused without one.
    output: [b h w 1] reconstructions of the image, in [-1, 1].

  Returns:
    [b] each: `reconstruction`, `perceptual` if there is an encoder, and their weighted
    sum `dissimilarity`.
  """
  difference = output - image
  if objective.loss.reconstruction == "l1":
    each = jnp.abs(difference)
  else:
    each = jnp.sqrt(jnp.square(difference) + EPSILON**2)
  terms = {"reconstruction": each.mean(axis=(1, 2, 3))}
  total = terms["reconstruction"]
  if objective.features_fn is not None:
    states, _ = objective.features_fn(frozen, output)
    target, _ = objective.features_fn(frozen, image)
    terms["perceptual"] = image_features.distance(states, target)
    total = total + objective.loss.perceptual_weight * terms["perceptual"]
  return terms | {"dissimilarity": total}


def divergence(objective: Objective, mean: jax.Array, logvar: jax.Array) -> jax.Array:
  """The weighted divergence of each posterior per pixel of its image: [b]."""
  pixels = mean.shape[1] * mean.shape[2] * objective.network.factor**2
  kl = autoencoder_lib.kl_divergence(mean, logvar)
  return objective.loss.kl_weight * kl / pixels


def hinge(real: types.Array, generated: types.Array) -> jax.Array:
  """The discriminator's loss: real logits should exceed 1, generated ones not -1."""
  return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + generated).mean())


def gradient_ratio(
  objective: Objective,
  params: types.Params,
  latent: types.Array,
  by_output: types.Array,
  adversarial_by_output: types.Array,
) -> jax.Array:
  """lambda: the ratio of two losses' gradient norms at the decoder's last kernel.

  Args:
    latent: [b h' w' z] that was decoded.
    by_output: [b h w 1] gradient of the first loss by the decoded images.
    adversarial_by_output: the gradient of the second.

  Returns:
    [] from 0 to `MAX_RATIO`.
  """
  decoder = params["decoder"]

  def decode(kernel):
    last = {**decoder["conv_out"], "kernel": kernel}
    changed = {**params, "decoder": {**decoder, "conv_out": last}}
    return objective.network.apply({"params": changed}, latent, method="decode")

  # When compiled, only the last layer's part of either backward pass remains.
  _, pull = jax.vjp(decode, decoder["conv_out"]["kernel"])
  norm = jnp.linalg.norm(pull(by_output)[0])
  adversarial_norm = jnp.linalg.norm(pull(adversarial_by_output)[0])
  return jnp.clip(norm / (adversarial_norm + 1e-6), 0.0, MAX_RATIO)
