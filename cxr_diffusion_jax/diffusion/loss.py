"""Squared error per sample, with a weight that depends on how noisy the sample is.

loss_i = weight(t_i) mean (prediction_i - target_i)^2,  in float32

Most weights are stated for the error of x0. Given x_t, an error of the prediction is
one of x0 times a factor of alpha and sigma alone, so the loss is the same number with
weight = weight_of_x0 (dx0/dprediction)^2
A value out of its range raises InputError.
"""

from collections.abc import Callable
import dataclasses
from typing import Protocol

import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.diffusion import prediction as predictions
from cxr_diffusion_jax.diffusion.process import Process


class Weighting(Protocol):
  """A weight per sample."""

  def __call__(self, process: Process, t: Array) -> Array:
    """The path and what is predicted on it, t [b] in [0, 1] -> weight [b], >= 0."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform:
  """Weight 1 on the error of whatever the denoiser predicts."""

  def __call__(self, process: Process, t: Array) -> Array:
    return jnp.ones_like(t, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearTimestep:
  """1 + slope (2 t - 1) on the error of whatever is predicted; 1 on average over t.

  The study before this one weighted linearly in the timestep, without publishing ends
  or direction. Here losses compare with unweighted ones, and noisier times count more.

  Attributes:
    slope: in [-1, 1]; below 0 cleaner times count for more, 0 is uniform.
  """

  slope: float = 1.0

  def __post_init__(self):
    if not -1 <= self.slope <= 1:
      raise errors.InputError(f"slope={self.slope} of linear_timestep", "-1 to 1")

  def __call__(self, process: Process, t: Array) -> Array:
    return 1 + self.slope * (2 * jnp.asarray(t, jnp.float32) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSNR:
  """min(SNR, gamma) on the error of x0, whatever the denoiser predicts.

  Hang et al. 2023 (2303.09556), eq. 7 and section 3.4, on any path. On a
  variance-preserving one it is min(SNR, gamma) / SNR for epsilon and / (SNR + 1) for v.

  Attributes:
    gamma: the weight's ceiling; the paper's choice is 5.
  """

  gamma: float = 5.0

  def __post_init__(self):
    errors.require_positive("gamma", self.gamma)

  def __call__(self, process: Process, t: Array) -> Array:
    return _of_x0(process, t, lambda snr: jnp.minimum(snr, self.gamma))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM:
  """SNR + 1 / sigma_data^2 on the error of x0.

  Karras et al. 2022 (2206.00364), table 1: (sigma^2 + sigma_data^2) over
  (sigma sigma_data)^2, with sigma / alpha for sigma. With the preconditioning of the
  same name the network's own error has weight 1 at every time.

  Attributes:
    sigma_data: standard deviation of the data; > 0.
  """

  sigma_data: float = 0.5

  def __post_init__(self):
    errors.require_positive("sigma_data", self.sigma_data)

  def __call__(self, process: Process, t: Array) -> Array:
    return _of_x0(process, t, lambda snr: snr + self.sigma_data**-2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sigmoid:
  """sigmoid(bias - logsnr) on the error of epsilon, for each step of logsnr.

  Kingma and Gao 2023 (2303.00848), eq. 10 with the weight of section 5: half of
  -dlogsnr/dt sigmoid(bias - logsnr), so that with uniform times the loss is an integral
  over logsnr, in which the schedule only decides how noisy its estimate is.

  Attributes:
    bias: logsnr at which the weight is half of its ceiling; larger adds detail.
  """

  bias: float = 2.0

  def __call__(self, process: Process, t: Array) -> Array:
    t = jnp.asarray(t, jnp.float32)
    logsnr, change = jax.jvp(process.schedule.logsnr, (t,), (jnp.ones_like(t),))
    # An error of epsilon is one of x0 times the root of the SNR; one sigmoid, since
    # SNR sigmoid(bias - logsnr) is infinity times 0 at the data's end.
    weight = jnp.exp(self.bias) * jax.nn.sigmoid(logsnr - self.bias)
    # At the very ends rounding may turn the fall into a rise.
    return _of_x0(process, t, lambda snr: 0.5 * jnp.maximum(-change, 0) * weight)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Velocity:
  """The rectified flow's loss, whatever the denoiser predicts; Li and He (2511.13720).

  Given x_t, an error of x0 is one of the velocity times sigma / (alpha + sigma), which
  is t on the straight path. The weight of x0's error is that factor's inverse square,
  bounded where there is hardly any noise.

  Attributes:
    floor: the smallest factor; in (0, 1]. The paper's choice is 0.05.
  """

  floor: float = 0.05

  def __post_init__(self):
    if not 0 < self.floor <= 1:
      raise errors.InputError(f"floor={self.floor} of velocity", "above 0, at most 1")

  def __call__(self, process: Process, t: Array) -> Array:
    # (alpha + sigma) / sigma is 1 plus the root of the SNR.
    return _of_x0(
      process, t, lambda snr: jnp.minimum(1 + jnp.sqrt(snr), 1 / self.floor) ** 2
    )


def squared_error(
  prediction: Array, target: Array, weight: Array, channel_weights: Array | float = 1.0
) -> Array:
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
  """The constructor of the weighting of this name; InputError for an unknown one."""
  weightings: dict[str, type[Weighting]] = {
    "edm": EDM,
    "linear_timestep": LinearTimestep,
    "min_snr": MinSNR,
    "sigmoid": Sigmoid,
    "uniform": Uniform,
    "velocity": Velocity,
  }
  return naming.choose("loss weighting", name, weightings)


def _of_x0(process: Process, t: Array, weight_fn: Callable[[Array], Array]) -> Array:
  """A weight of x0's error, a function of SNR [b], as one of the prediction's error."""
  alpha, sigma = process.coefficients(t, jnp.ndim(t))
  gain = predictions.gain(process.prediction, alpha, sigma)
  return weight_fn(jnp.exp(process.schedule.logsnr(t))) * gain**2
