"""What the checksums of a checkpoint cost, beside saving and restoring it.

  python tests/benchmarks/checksums.py [--megabytes 400] [--runs 5] [--folder FOLDER]

Saves and restores a state of random numbers of this size, and times the checksums
within. Prints the medians of both and of their ratio.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax import checksums
from cxr_diffusion_jax.run import checkpoints
from cxr_diffusion_jax.run import state as state_lib


class Timed:
  """A function that adds up its seconds, in the place of a module's."""

  def __init__(self, module, name: str):
    self._function, self.seconds = getattr(module, name), 0.0
    setattr(module, name, self)

  def __call__(self, *arguments):
    start = time.perf_counter()
    try:
      return self._function(*arguments)
    finally:
      self.seconds += time.perf_counter() - start


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--megabytes", type=int, default=400)
  parser.add_argument("--runs", type=int, default=5)
  parser.add_argument("--folder")
  given = parser.parse_args()
  # Parameters, their average and two moments, each in a few arrays.
  draw = np.random.default_rng(0)
  size = given.megabytes * 10**6 // 4 // 4 // 8
  params = {f"layer_{i}": draw.normal(size=size).astype(np.float32) for i in range(8)}

  def moments(params):
    return {name: (leaf, leaf) for name, leaf in params.items()}

  seal, check = (Timed(checksums, name) for name in ("seal_written", "check"))
  rows = []
  with tempfile.TemporaryDirectory(dir=given.folder) as folder:
    for step in range(1, given.runs + 1):
      changed = {name: leaf + np.float32(step) for name, leaf in params.items()}
      state = state_lib.create(jax.device_put(changed), moments)
      state = state.replace(step=jax.numpy.asarray(step))
      seal.seconds = check.seconds = 0.0
      start = time.perf_counter()
      with checkpoints.open_manager(folder) as manager:
        checkpoints.save(manager, state, {})
      middle = time.perf_counter()
      with checkpoints.open_manager(folder, read_only=True) as manager:
        jax.block_until_ready(checkpoints.restore(manager, state))
      end = time.perf_counter()
      rows.append((middle - start, seal.seconds, end - middle, check.seconds))
  for name, whole, part in (("save", 0, 1), ("restore", 2, 3)):
    seconds = statistics.median(row[whole] for row in rows)
    sums = statistics.median(row[part] for row in rows)
    share = statistics.median(row[part] / row[whole] for row in rows)
    print(f"{name}: {seconds:.2f} s, of which checksums {sums:.2f} s, {share:.1%}")


if __name__ == "__main__":
  main()
