"""Squared error per sample, with a weight that depends on how noisy the sample is.

loss_i = weight(logsnr_i) mean (prediction_i - target_i)^2,  in float32
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import prediction as predictions
from cxr_diffusion_jax.types import Array


class Weighting(Protocol):
  """A weight per sample."""

  def __call__(self, logsnr: Array, prediction: str) -> jax.Array:
    """logsnr [b], what the denoiser predicts -> weight [b], > 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform:
  """Weight 1 on the error of whatever the denoiser predicts."""

  def __call__(self, logsnr: Array, prediction: str) -> jax.Array:
    """logsnr [b] -> ones [b]."""
    predictions.check(prediction)
    return jnp.ones_like(logsnr, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSNR:
  """min(SNR, gamma) on the error of x0, whatever the denoiser predicts.

  Hang et al. 2023 (2303.09556), eq. 7 and section 3.4. An error of the prediction is
  an error of x0 times a factor that only depends on SNR = (alpha / sigma)^2:
  x0: 1, epsilon: sqrt(SNR), v on a variance-preserving path: sqrt(SNR + 1),
  velocity: sqrt(SNR) + 1. The weight divides by its square.

  Attributes:
    gamma: the weight's ceiling; the paper's choice is 5.
  """

  gamma: float = 5.0

  def __call__(self, logsnr: Array, prediction: str) -> jax.Array:
    """logsnr [b], kind of prediction -> weight [b]."""
    snr = jnp.exp(jnp.asarray(logsnr, jnp.float32))
    predictions.check(prediction)
    # What an error of x0, squared, is worth as an error of the prediction.
    factor = {
      "x0": 1.0,
      "epsilon": snr,
      "v": snr + 1,
      "velocity": (jnp.sqrt(snr) + 1) ** 2,
    }[prediction]
    return jnp.minimum(snr, self.gamma) / factor


def squared_error(
  prediction: Array, target: Array, weight: Array, channel_weights: Array | float = 1.0
) -> jax.Array:
  """Weighted mean squared error of each sample.

  Args:
    prediction: [b ...] of the denoiser, any float type.
    target: [b ...].
    weight: [b].
    channel_weights: [c] of the last axis, or one number.

  Returns:
    [b] float32; the training loss is its mean.
  """
  difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
  axes = tuple(range(1, difference.ndim))
  return weight * jnp.mean(channel_weights * jnp.square(difference), axis=axes)


def load(name: str) -> type[Weighting]:
  """The constructor of the weighting of this name.

  Raises:
    InputError: no weighting has this name.
  """
  found = {"uniform": Uniform, "min_snr": MinSNR}
  if name not in found:
    raise errors.InputError(
      f"unknown loss weighting {name!r}", f"one of {sorted(found)}"
    )
  return found[name]
