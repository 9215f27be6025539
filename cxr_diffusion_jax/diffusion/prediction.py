"""The four things a denoiser may predict, and each one's way to the data and the noise.

x_t = alpha x0 + sigma noise
epsilon = noise      x0 = x0      v = alpha noise - sigma x0      velocity = noise - x0

Given x_t, any one of them fixes all others. `v` is Salimans and Ho 2022 (2202.00512);
`velocity` is the rectified flow's (2209.03003), and on any path it is the derivative of
x_t / (alpha + sigma) by sigma / (alpha + sigma).
"""

from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax import naming


def names() -> tuple[str, ...]:
  """What a denoiser may predict, sorted."""
  return ("epsilon", "v", "velocity", "x0")


def check(name: str) -> None:
  """Raises InputError unless `name` is one of `names()`."""
  naming.check("prediction", name, names())


def target(name: str, x0: Array, noise: Array, alpha: Array, sigma: Array) -> Array:
  """What a perfect denoiser of a kind would answer for x0 [...] and noise [...].

  `alpha` and `sigma` broadcast with x0, here and below.
  """
  match name:
    case "x0":
      return x0
    case "epsilon":
      return noise
    case "v":
      return alpha * noise - sigma * x0
    case "velocity":
      return noise - x0
  raise ValueError(f"unknown prediction {name!r}")


def split(
  name: str, prediction: Array, x_t: Array, alpha: Array, sigma: Array
) -> tuple[Array, Array]:
  """The x0 and noise, [...] each, that a prediction [...] at x_t [...] means.

  `v` and `velocity` are exact on the whole path. `epsilon` says nothing of the data
  where alpha = 0, nor `x0` of the noise where sigma = 0: there the missing one is
  finite, and multiplied by 0 in every use.
  """
  match name:
    case "x0":
      return prediction, _over(x_t - alpha * prediction, sigma)
    case "epsilon":
      return _over(x_t - sigma * prediction, alpha), prediction
    case "v":
      norm = alpha**2 + sigma**2
      x0 = (alpha * x_t - sigma * prediction) / norm
      return x0, (sigma * x_t + alpha * prediction) / norm
    case "velocity":
      x0 = (x_t - sigma * prediction) / (alpha + sigma)
      return x0, (x_t + alpha * prediction) / (alpha + sigma)
  raise ValueError(f"unknown prediction {name!r}")


def convert(
  prediction: Array, source: str, wanted: str, x_t: Array, alpha: Array, sigma: Array
) -> Array:
  """A prediction [...] of kind `source` as one of kind `wanted`, given x_t [...]."""
  x0, noise = split(source, prediction, x_t, alpha, sigma)
  return target(wanted, x0, noise, alpha, sigma)


def gain(name: str, alpha: Array, sigma: Array) -> Array:
  """The size [...] of x0's error where a prediction is off by 1, given x_t.

  It is finite, and 0 only where sigma = 0.
  """
  match name:
    case "x0":
      return jnp.ones_like(sigma)
    case "epsilon":
      return _over(sigma, alpha)
    case "v":
      return sigma / (alpha**2 + sigma**2)
    case "velocity":
      return sigma / (alpha + sigma)
  raise ValueError(f"unknown prediction {name!r}")


def _over(numerator: Array, denominator: Array) -> Array:
  """numerator / denominator, without inf or NaN where the denominator is 0."""
  return numerator / jnp.maximum(denominator, 1e-6)
