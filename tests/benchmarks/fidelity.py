"""Time and peak memory of the distances of many features, and beside scipy's way.

  python tests/benchmarks/fidelity.py [--num 50000] [--width 2048]

Each figure is measured in a process of its own; the peak is its VmHWM, features and
imports counted. Frechet distances must stay below 60 s and 4 GB at 50,000 x 2,048 on 2
cores, and what k-NN figures add to the features below 2 GB: `nearest` asks it of 2,000
images among all, which takes as much memory as all, and seconds; precision_recall,
density_coverage and cmmd are there too. The ratio is that of scipy's matrix root (as in
torch-fidelity) to this project's, in turns on the same covariances.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax.evaluation.metrics import (
  frechet,
  kernels,
  neighbourhoods,
  neighbours,
)


def features(num: int, width: int, seed: int) -> np.ndarray:
  """[num width] float32 with unequal variances, made in blocks."""
  rng = np.random.default_rng(seed)
  result = rng.standard_normal((num, width), np.float32)
  result *= 1 / np.sqrt(1 + np.arange(width, dtype=np.float32))
  result += np.float32(0.01 * seed)
  return result


def peak_gb() -> float:
  """This process's largest resident set so far, in GB."""
  status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
  line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
  return int(line.split()[1]) * 1024 / 1e9


def measure(what: str, num: int, width: int) -> None:
  """Prints one figure, its seconds and its peak memory."""
  a, b = (features(num, width, seed) for seed in (0, 1))
  before = peak_gb()
  metric = {
    "frechet": frechet.frechet_distance,
    "kernel": kernels.kernel_distance,
    "precision_recall": neighbourhoods.precision_recall,
    "density_coverage": neighbourhoods.density_coverage,
    "cmmd": kernels.cmmd,
    "nearest": lambda x, y: neighbours.nearest(x[:2000], y, 5)[0].mean(),
  }[what]
  start, busy = time.perf_counter(), time.process_time()
  value = metric(a, b)
  seconds, busy = time.perf_counter() - start, time.process_time() - busy
  print(
    f"{what:17} {num} x {width}: {seconds:7.1f} s ({busy:.1f} s of cores), "
    f"peak {peak_gb():.2f} GB, {before:.2f} GB before; {value}",
    flush=True,
  )


def compare(width: int, turns: int = 3) -> None:
  """Prints how long the distance takes scipy, of covariances, and this project."""
  import scipy.linalg

  a, b = (features(2 * width, width, seed) for seed in (0, 1))
  seconds: dict[str, list[float]] = {"scipy": [], "ours": []}
  for _ in range(turns):
    start = time.perf_counter()
    (mean_a, first), (mean_b, second) = frechet.moments(a), frechet.moments(b)
    root = scipy.linalg.sqrtm(first @ second)
    middle = time.perf_counter()
    ours = frechet.frechet_distance(a, b)
    seconds["scipy"].append(middle - start)
    seconds["ours"].append(time.perf_counter() - middle)
  theirs = np.square(mean_a - mean_b).sum() + np.trace(first + second - 2 * root.real)
  fastest = {name: min(times) for name, times in seconds.items()}
  print(
    f"{2 * width} x {width}: scipy {fastest['scipy']:.2f} s, ours "
    f"{fastest['ours']:.2f} s, ratio {fastest['scipy'] / fastest['ours']:.1f}; "
    f"relative difference {abs(ours - theirs) / theirs:.1e}",
    flush=True,
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num", type=int, default=50_000)
  parser.add_argument("--width", type=int, default=2048)
  parser.add_argument("--compare_width", type=int, default=1024)
  parser.add_argument("--figures", default="frechet,kernel,nearest")
  parser.add_argument("--child", default="", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.child:
    measure(flags.child, flags.num, flags.width)
    return
  print(
    f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, numpy {np.__version__}"
  )
  compare(flags.compare_width)
  for what in flags.figures.split(","):
    command = [sys.executable, __file__, "--child", what]
    command += ["--num", str(flags.num), "--width", str(flags.width)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
  main()
