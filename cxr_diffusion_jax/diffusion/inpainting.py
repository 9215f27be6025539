"""Parts of the data that are known while the rest is drawn.

after each step, at the time t just reached:
  x = x where it is generated, alpha(t) x0 + sigma(t) noise where x0 is known

Lugmayr et al. 2022 (RePaint, 2201.09865), eq. 8, without its resampling. What is known
is mixed with the noise that the sampler began with, so that it lies on one path as the
rest does; samplers that make fresh noise get it fresh here too.
"""

from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.diffusion import sampler as sampler_lib
from cxr_diffusion_jax.diffusion.process import Process


def keep_known(
  process: Process, x0: Array, make: Array, noise: Array, *, fresh: bool = False
) -> sampler_lib.ConstrainFn:
  """Makes the function that a sampler calls after each step.

  Args:
    process: the path.
    x0: [b ...] the data where it is known.
    make: bool, broadcasts with x0: True where data are generated.
    noise: [b ...] standard normal, the sampler's.
    fresh: draw other noise at each step, from the step's keys.
  """

  def constrain_fn(x: Array, t: Array, keys: Array | None) -> Array:
    own = noise
    if fresh:
      assert keys is not None, "the sampler passes keys to a fresh constraint"
      own = sampler_lib.draw_noise(keys, x.shape[1:])
    alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
    # The last step gives the data, though some paths keep a little noise at t = 0.
    known = jnp.where(t > 0, alpha * x0 + sigma * own, x0)
    return jnp.where(make, x, known)

  return constrain_fn


def to_places(mask: Array, places: tuple[int, int]) -> Array:
  """Brings a mask of pixels to the places of a latent.

  Args:
    mask: [b h w 1] bool, True where data are generated.
    places: (h', w') of the latent, that divide h and w.

  Returns:
    [b h' w' 1] bool: True where any of the place's pixels is.
  """
  b, h, w, _ = mask.shape
  rows, columns = places
  if h % rows or w % columns:
    raise ValueError(f"a mask of {h}x{w} pixels for {rows}x{columns} places")
  blocks = jnp.reshape(mask, (b, rows, h // rows, columns, w // columns, 1))
  return blocks.any(axis=(2, 4))
