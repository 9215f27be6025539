"""Noise levels against diffusers': alpha squared and sigma of all 1000 levels.

The peer multiplies in float32, we in float64: its own rounding is most of what is left.
"""

import pathlib
import sys

import numpy as np

from cxr_diffusion_jax.diffusion import schedule

sys.path.append(str(pathlib.Path(__file__).parents[1] / "diffusion"))


def rows() -> list[tuple[str, float, float, float, float]]:
  """(what, ours: mean, peer: mean, largest difference, limit) a schedule."""
  import make_diffusers_schedules as peers

  times = np.arange(1000, dtype=np.float32) / 1000
  result = []
  for name, peer, ends in peers.SCHEDULES:
    for zero in (False, True):
      path = schedule.load(name)(zero_terminal_snr=zero)
      wanted = peers.alphas_cumprod(peer, ends, zero).astype(np.float64)
      alpha = np.asarray(path.alpha(times), np.float64) ** 2
      sigma = np.asarray(path.sigma(times), np.float64) ** 2
      what = f"{name}{', zero terminal SNR' if zero else ''}"
      for kind, ours, peers_own in (
        ("alpha^2", alpha, wanted),
        ("sigma^2", sigma, 1 - wanted),
      ):
        error = np.abs(ours - peers_own).max()
        result.append(
          (f"{what}: {kind}, absolute", ours.mean(), peers_own.mean(), error, 1e-6)
        )
      # At the last levels the peer's float32 takes differences of close numbers.
      relative = np.abs(alpha / np.where(wanted > 0, wanted, np.nan) - 1)
      result.append(
        (
          f"{what}: alpha^2, relative",
          alpha.mean(),
          wanted.mean(),
          float(np.nanmax(relative)),
          1e-4,
        )
      )
  return result
