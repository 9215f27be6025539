"""Averages of any length, reconstructed after training from a few tracked ones.

  p_{g,T}(t) = (g + 1) t^g / T^(g + 1) on [0, T]      the weight of step t's parameters
  average_T  = average_{T-1} + (1 - (1 - 1/T)^(g + 1)) (params_T - average_{T-1})
  p_{g,T}   ~= sum of x_i p_{g_i,T_i}, x_i by least squares, and likewise the averages

Karras et al. 2024 (2312.02696), section 3.2 and appendix C. A profile is named by its
relative length, its standard deviation over T, which decreases with the power g. The
weight of step k is the integral of the profile from k - 1 to k.
"""

from collections.abc import Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types

# The length of power 0: the plain mean of all steps.
LONGEST = 12**-0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
  """The weight of each step's parameters in an average.

  Attributes:
    length: standard deviation of the profile over `step`, in (0, LONGEST].
    step: the last averaged step, 1 or more.
  """

  length: float
  step: int


def length(power: float) -> float:
  """The relative length of a power, 0 or more: equation 4 of the paper's appendix C."""
  return math.sqrt((power + 1) / ((power + 2) ** 2 * (power + 3)))


def power(length: float) -> float:
  """The power of a relative length: the positive root of a cubic.

  (g + 2)^2 (g + 3) = (g + 1) / length^2

  Raises:
    errors.InputError: no power has this length.
  """
  if not 0 < length <= LONGEST + 1e-9:
    raise errors.InputError(
      f"an EMA length of {length:g}", f"above 0, at most {LONGEST:.4f} (the plain mean)"
    )
  inverse = length**-2
  roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
  return max(0.0, float(np.max(roots.real[np.abs(roots.imag) < 1e-6])))


def update(
  average: types.Params, params: types.Params, step: jax.Array, power: float
) -> types.Params:
  """Returns the average after one more step.

  Args:
    average: after `step - 1`; ignored at step 1.
  """
  # 1 - (1 - 1/step)^(power + 1), exact even if 1/step is small.
  share = -jnp.expm1((power + 1) * jnp.log1p(-1.0 / step.astype(jnp.float32)))
  return jax.tree.map(lambda old, new: old + share * (new - old), average, params)


def inner_product(a: Profile, b: Profile) -> float:
  """The integral of the product of two profiles."""
  if a.step > b.step:
    a, b = b, a
  p, q = power(a.length), power(b.length)
  return (p + 1) * (q + 1) / (p + q + 1) * (a.step / b.step) ** q / b.step


def combine(saved: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
  """Returns the weights of saved averages that best approximate a wanted average.

  The weights sum to 1, so that constant parameters are unchanged.

  Args:
    saved: different profiles, none of them later than the wanted one.

  Returns:
    Weights [n] float64, and the error of the combined profile: the norm of its
    difference from the wanted one, over the norm of the wanted one.
  """
  if any(profile.step > wanted.step for profile in saved):
    raise ValueError(f"a snapshot later than step {wanted.step}")
  norms = np.array([math.sqrt(inner_product(a, a)) for a in saved])
  gram = np.array([[inner_product(a, b) for b in saved] for a in saved])
  target = np.array([inner_product(a, wanted) for a in saved])
  # Normalised, so that the smallest entries count as much as the largest.
  gram, target = gram / np.outer(norms, norms), target / norms
  border = 1 / norms / np.linalg.norm(1 / norms)
  system = np.block([[gram, border[:, None]], [border[None], np.zeros((1, 1))]])
  right = np.append(target, 1 / np.linalg.norm(1 / norms))
  solved = np.linalg.lstsq(system, right, rcond=1e-12)[0][:-1]
  squared = inner_product(wanted, wanted)
  distance = solved @ gram @ solved - 2 * solved @ target + squared
  return solved / norms, math.sqrt(max(distance, 0.0) / squared)
