"""How near a noise-free copy of a phantom comes to it: what its own noise allows.

  python tests/benchmarks/phantom_noise.py [--size 128] [--num 48]

Prints the mean PSNR between phantoms and the same ones rendered without noise: no
autoencoder that leaves noise out can exceed it.
"""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax.extras.phantom import anatomy, render


def images(index: int, size: int) -> list[np.ndarray]:
  """One phantom [h w] in [0, 1], with its noise and without."""
  rng = np.random.default_rng([0, index])
  person = anatomy.sample_patient(np.random.default_rng([0, 1, index]))
  findings = anatomy.sample_findings(rng)
  study = anatomy.sample_study(rng, person, findings=findings, view=None)
  clean = dataclasses.replace(study, noise=0.0)
  return [render.render(person, s, size=size).image / 255.0 for s in (study, clean)]


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--size", type=int, default=128)
  parser.add_argument("--num", type=int, default=48)
  given = parser.parse_args()
  errors = [
    np.square(np.subtract(*images(i, given.size))).mean() for i in range(given.num)
  ]
  psnr = -10 * np.log10(errors)
  print(f"{given.num} phantoms of {given.size}: {psnr.mean():.1f} dB")


if __name__ == "__main__":
  main()
