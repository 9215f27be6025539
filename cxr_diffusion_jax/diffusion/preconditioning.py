"""Scales a network's inputs and outputs to about size 1.

network's input = c_in x_t,  its time = c_noise,
prediction = c_skip x_t + c_out network(c_in x_t, c_noise)

none  c_in = 1, c_skip = 0, c_out = 1, c_noise = 1000 t
edm   Karras et al. 2022 (2206.00364), eq. 7 and table 1

The network is outside: whatever takes (x, t in [0, 1000], context) can be wrapped.
A value out of its range raises InputError.
"""

from collections.abc import Callable
import dataclasses
from typing import Protocol

from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.diffusion.process import Process
from cxr_diffusion_jax.types import Context, DenoiseFn

# (x [b ...], t [b] in [0, 1000], context) -> answer [b ...]
NetworkFn = Callable[[Array, Array, Context], Array]

# Networks take the time in the units of published weights: 1000 steps.
TIME_SCALE = 1000.0


class Preconditioning(Protocol):
  """Around a network; what comes out is of `process.prediction`."""

  def check(self, process: Process) -> None:
    """Raises InputError where the process predicts what this cannot give."""

  def inputs(self, process: Process, x_t: Array, t: Array) -> tuple[Array, Array]:
    """x_t [b ...], t [b] in [0, 1] -> the network's x [b ...], its t [b]."""
    ...

  def output(self, process: Process, x_t: Array, t: Array, answer: Array) -> Array:
    """The prediction [b ...] that a network's answer [b ...] means."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
  """The network predicts by itself; only the time changes its unit."""

  def check(self, process: Process) -> None:
    pass

  def inputs(self, process: Process, x_t: Array, t: Array) -> tuple[Array, Array]:
    return x_t, TIME_SCALE * t

  def output(self, process: Process, x_t: Array, t: Array, answer: Array) -> Array:
    return answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM:
  """Input and target of variance 1 at every time, for data of variance sigma_data^2.

  Stated for alpha = 1, used on any path through x_t / alpha and sigma / alpha; written
  without that division, so that it holds at alpha = 0 too. With n the root of
  sigma^2 + alpha^2 sigma_data^2:

    c_in = 1 / n,  c_skip = alpha sigma_data^2 / n^2,  c_out = sigma sigma_data / n

  c_noise is affine in log(sigma / alpha), 0 at the path's one end and 1000 at its
  other, or where logsnr is -+20.

  Attributes:
    sigma_data: standard deviation of the data; > 0.
  """

  sigma_data: float = 0.5

  def __post_init__(self):
    errors.require_positive("sigma_data", self.sigma_data)

  def check(self, process: Process) -> None:
    if process.prediction != "x0":
      raise errors.InputError(
        f"preconditioning 'edm' with prediction {process.prediction!r}",
        "'x0', which is what it makes of a network's answer",
        "set config.diffusion.prediction=x0",
      )

  def inputs(self, process: Process, x_t: Array, t: Array) -> tuple[Array, Array]:
    alpha, sigma = process.coefficients(t, x_t.ndim)
    ends = process.schedule.logsnr(jnp.array([0.0, 1.0]))
    clean, noisy = jnp.clip(ends, -20, 20)
    logsnr = jnp.clip(process.schedule.logsnr(t), noisy, clean)
    time = TIME_SCALE * (clean - logsnr) / (clean - noisy)
    return x_t / self._norm(alpha, sigma), time

  def output(self, process: Process, x_t: Array, t: Array, answer: Array) -> Array:
    alpha, sigma = process.coefficients(t, x_t.ndim)
    norm = self._norm(alpha, sigma)
    skip = alpha * (self.sigma_data / norm) ** 2
    out = sigma * self.sigma_data / norm
    return skip * x_t + out * answer.astype(jnp.float32)

  def _norm(self, alpha: Array, sigma: Array) -> Array:
    return jnp.sqrt(sigma**2 + (alpha * self.sigma_data) ** 2)


def wrap(
  preconditioning: Preconditioning, process: Process, network_fn: NetworkFn
) -> DenoiseFn:
  """A denoiser (x_t [b ...], t [b] in [0, 1], context) -> prediction [b ...].

  Args:
    preconditioning: what is put around the network.
    process: the path, and what is predicted on it.
    network_fn: (x [b ...], t [b] in [0, 1000], context) -> answer [b ...].
  """

  def denoise_fn(x_t: Array, t: Array, context: Context) -> Array:
    x, time = preconditioning.inputs(process, x_t, t)
    return preconditioning.output(process, x_t, t, network_fn(x, time, context))

  return denoise_fn


def load(name: str) -> type[Preconditioning]:
  """The constructor of the preconditioning of this name, or InputError."""
  choices: dict[str, type[Preconditioning]] = {"edm": EDM, "none": Identity}
  return naming.choose("preconditioning", name, choices)
