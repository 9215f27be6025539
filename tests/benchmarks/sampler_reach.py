"""What samplers reach of a set of images with the exact denoiser: no network.

  python tests/benchmarks/sampler_reach.py --images FOLDER --size 256 [--num 400]
    [--recipe flow,edm] [--sampler unipc,heun] [--steps 25]

Prints a table of each recipe's default, of each sampler with the flow's spacing, and of
the exact ODE, a sampler's limit: evaluations, different images reached and those of as
many fair draws, standard deviations of the first six modes and of mean grey over the
images', and that of Gaussian data with the first mode's variance. `--images phantoms`
makes 800 of them.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import numpy as np

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from configs import default
from cxr_diffusion_jax.data import images as images_lib
from cxr_diffusion_jax.diffusion import sampler as sampler_lib
from cxr_diffusion_jax.diffusion.process import Process
from cxr_diffusion_jax.extras.phantom import tree
from cxr_diffusion_jax.run import diffusion_section, sample_section
from tests.fixtures import empirical

HEADER = """
| {0} | evaluations | images | of fair draws | modes 1-6 | mean grey | Gaussian |
|---|--:|--:|--:|---|--:|--:|"""


def read(folder: str, size: int) -> list[np.ndarray]:
  """The PNGs below a folder, or phantoms, as [size size 1] uint8."""
  if folder == "phantoms":
    with tempfile.TemporaryDirectory() as place:
      tree.write_tree(place, num_images=800, size=size, seed=0)
      return read(place, size)
  paths = sorted(pathlib.Path(folder).rglob("*.png"))
  return [
    images_lib.resize(images_lib.read_grey(path), size)[..., None] for path in paths
  ]


def row(name: str, reach: empirical.Reach) -> str:
  """A line of the table."""
  modes = " ".join(f"{value:.3f}" for value in reach.modes)
  return (
    f"| {name} | {reach.evaluations} | {reach.images:.0f} of {reach.fair:.0f} |"
    f" {reach.images / reach.fair:.0%} | {modes} | {reach.grey:.3f} |"
    f" {reach.gaussian:.3f} |"
  )


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--images", required=True)
  parser.add_argument("--size", type=int, default=256)
  parser.add_argument("--levels", type=int, default=2)
  parser.add_argument("--num", type=int, default=400)
  parser.add_argument("--repeats", type=int, default=2)
  parser.add_argument("--recipe", default=",".join(default.RECIPES))
  parser.add_argument("--sampler", default=",".join(sampler_lib.methods()))
  parser.add_argument("--evaluations", type=int, default=25)
  given = parser.parse_args()
  began = time.monotonic()
  code = empirical.code_of(read(given.images, given.size), given.levels)
  bench = empirical.Bench(code, num=given.num, repeats=given.repeats)
  variances = " ".join(f"{value:.0f}" for value in code.variances)
  print(f"{len(code.rows)} images, {given.size} px; variances of modes {variances}")
  chance = " ".join(f"{value:.3f}" for value in code.chance(len(bench.noise)))
  print(f"chance in the deviations of {len(bench.noise)} fair draws: {chance}")

  def measured(name: str, section: dict, settings: dict) -> None:
    sampler = sample_section.make_sampler(
      sample_section.SampleSettings(**settings), mode_variance=code.mode_variance
    )
    process = diffusion_section.build(section)["process"]
    print(row(name, bench.measure(process, sampler)), flush=True)

  print(HEADER.format("recipe, its default"))
  for recipe in filter(None, given.recipe.split(",")):
    section, changes = default.diffusion(recipe)
    measured(recipe, section, default.SAMPLER | changes)
  flow = default.diffusion("flow")[0]
  for spacing in ("spectrum", "logsnr", "time"):
    print(HEADER.format(f"sampler, spacing {spacing}"))
    for name in filter(None, given.sampler.split(",")):
      stages = sampler_lib.load(name).stages
      steps = (given.evaluations + stages - 1) // stages
      settings = {"sampler": name, "num_steps": steps, "spacing": spacing}
      measured(name, flow, settings)
  print(HEADER.format("exact ODE"))
  exact = empirical.exact(code.mode_variance)
  limit = bench.describe(
    bench.limit,
    evaluations=exact.num_evaluations,
    gaussian=empirical.gaussian_ratio(code.mode_variance, Process(), exact),
    paired=False,
  )
  print(row("over the images'", limit))
  print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
  main()
