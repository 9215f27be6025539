"""Samplers against diffusers' schedulers: x after every step, from the same noise.

The network is a nonlinear formula of x and t, and fresh noise is fed to both. Ours and
the peer's numbers are the root mean square of the last x; differences are of all steps,
the largest over the largest x of that step, and of the times, absolute.
"""

import pathlib
import sys

import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[1] / "diffusion"))


def rows() -> list[tuple[str, float, float, float, float]]:
  """(what, ours, peer, largest difference, limit), two for each sampler."""
  import make_diffusers_samplers as peers
  import sampler_cases

  shape = (4, 8, 8, 1)
  result = []
  for case in sampler_cases.cases():
    reported, states = peers.follow(case, sampler_cases.fresh_of(case, shape))
    our_times, ours = (
      np.asarray(value) for value in sampler_cases.run_ours(case, shape)
    )
    result.append(
      (f"{case.name}: x", _rms(ours[-1]), _rms(states[-1]), _apart(ours, states), 1e-4)
    )
    error = np.abs(our_times - reported).max()
    result.append((f"{case.name}: t", our_times.mean(), reported.mean(), error, 1e-5))
  return result


def _rms(x: np.ndarray) -> float:
  return float(np.sqrt(np.mean(x**2)))


def _apart(ours: np.ndarray, peer: np.ndarray) -> float:
  """The largest difference of any step, over the largest value of that step."""
  axes = tuple(range(1, peer.ndim))
  return float(np.max(np.abs(ours - peer).max(axis=axes) / np.abs(peer).max(axis=axes)))
