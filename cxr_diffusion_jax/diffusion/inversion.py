"""Inversion: from data to the noise from which a deterministic sampler makes it.

z = x / (alpha + sigma), s = sigma / (alpha + sigma):  dz / ds = noise - x0
  sampling   z' = z + (s' - s) v(x, t)        primes at the cleaner point
  inversion  z  = z' + (s - s') v(x, t)       the same equation, solved for x

The denoiser's answer belongs to the noisier end of each step, which is what is sought:
x is estimated from x' and improved by the denoiser's estimate there. One estimate
is DDIM inversion (Song et al. 2020, 2010.02502; Mokady et al. 2022, 2211.09794); more
of them are the fixed-point iteration of Pan et al. 2023 (2309.04907), which converges
to the exact inverse of the sampler's own steps.
"""

import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.diffusion import prediction as predictions
from cxr_diffusion_jax.diffusion.process import Process
from cxr_diffusion_jax.diffusion.times import Grid
from cxr_diffusion_jax.types import Context, DenoiseFn


def invert(
  process: Process,
  denoise_fn: DenoiseFn,
  x0: Array,
  context: Context,
  grid: Grid,
  *,
  repeats: int = 1,
) -> Array:
  """Follows the probability-flow ODE from data to noise, by Euler's method (DDIM).

  Args:
    process: the path, and what the denoiser predicts.
    denoise_fn: (x_t [b ...], t [b] in [0, 1], context) -> prediction [b ...], without
      guidance, which cannot be inverted well.
    x0: [b ...] data.
    context: passed to `denoise_fn`.
    grid: falling times, those of the sampler that will make the data again.
    repeats: evaluations of the denoiser for each step.

  Returns:
    x_t [b ...] float32 at the grid's first time.
  """

  def body(x, step):
    t = jnp.full(x.shape[:1], step["t"])
    total = step["alpha"] + step["sigma"]
    next_total = step["next_alpha"] + step["next_sigma"]
    change = step["sigma"] / total - step["next_sigma"] / next_total
    start = x / next_total

    def improve(_, guess):
      prediction = denoise_fn(guess, t, context).astype(jnp.float32)
      velocity = predictions.convert(
        prediction, process.prediction, "velocity", guess, step["alpha"], step["sigma"]
      )
      return total * (start + change * velocity)

    return jax.lax.fori_loop(0, repeats, improve, total * start), None

  # From the last step to the first, each from its cleaner end to its noisier one.
  return jax.lax.scan(body, jnp.asarray(x0, jnp.float32), grid.steps(), reverse=True)[0]
