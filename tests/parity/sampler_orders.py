"""How fast samplers reach an exact solution, against the order that theory gives.

Data N(1.5, 0.4^2) has an exact denoiser and an exact flow. Between two levels of noise,
karras spacing, 32 and 64 steps: order = log2 of how the largest error falls. Ours is
the measured order, the peer's the theory's; only what is missing is a difference.
"""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.diffusion import process, sampler, schedule

sys.path.append(str(pathlib.Path(__file__).parents[1] / "diffusion"))


def rows() -> list[tuple[str, float, float, float, float]]:
  """(what, measured order, order, what is missing, limit) a sampler and path."""
  import test_convergence as exact

  result = []
  noise = jnp.linspace(-2, 2, 5)[:, None]
  orders = {"ddim": 1, "euler": 1, "heun": 2, "dpm_solver_2m": 2, "unipc": 2}
  paths = [schedule.Cosine(), schedule.VP(), schedule.EDM(), schedule.RectifiedFlow()]
  for path in paths:
    on = process.Process(schedule=path, prediction="v")
    for name, order in orders.items():
      errors = []
      for num_steps in (32, 64):
        draw = sampler.Sampler(
          method=sampler.load(name)(), num_steps=num_steps, times=exact.TIMES
        )
        denoise_fn = functools.partial(exact.mixture_denoiser, on, (1,))
        run = functools.partial(draw, on, denoise_fn, context=())
        wanted = exact.solution(on, num_steps, noise)
        errors.append(float(np.abs(jax.jit(run)(noise) - wanted).max()))
      measured = float(np.log2(errors[0] / errors[1]))
      what = f"{name} on {type(path).__name__}, error {errors[1]:.1e}: order"
      result.append((what, measured, order, max(order - measured, 0), 0.15))
  return result
