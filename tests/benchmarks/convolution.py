"""How fast each form of `models/convolution.py` is on this machine's CPU.

  python tests/benchmarks/convolution.py

Prints GFLOP/s of the direct sum, by wall time and, after the slash, by CPU time, which
says more on a busy machine: the best of three runs, which take turns.
"""

import pathlib
import sys
import time

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax.models import convolution

# (what it is, batch, side, channels in and out)
SHAPES = (
  ("SD 1.5", 1, 8, 1280, 1280),
  ("SD 1.5", 1, 16, 1280, 1280),
  ("SD 1.5", 1, 32, 640, 640),
  ("SD 1.5", 1, 64, 320, 320),
  ("autoencoder", 1, 64, 512, 512),
  ("autoencoder", 1, 128, 512, 512),
  ("autoencoder", 1, 256, 512, 256),
  ("small UNet", 8, 8, 256, 256),
  ("small UNet", 8, 32, 64, 64),
)
REPEATED = (("autoencoder", 1, 64, 512), ("SD 1.5", 1, 32, 640))


def rates(functions: dict, operands: tuple, flops: float) -> str:
  """The rates of each function, as text."""
  compiled = {name: jax.jit(function) for name, function in functions.items()}
  best = {name: [float("inf"), float("inf")] for name in compiled}
  for turn in range(4):
    for name, function in compiled.items():
      start, cpu = time.perf_counter(), time.process_time()
      jax.block_until_ready(function(*operands))
      now = [time.perf_counter() - start, time.process_time() - cpu]
      # The first turn compiles.
      if turn:
        best[name] = list(map(min, best[name], now))
  return "  ".join(
    f"{name} {flops / wall / 1e9:.0f}/{flops / cpu / 1e9:.0f}"
    for name, (wall, cpu) in best.items()
  )


def repeated(x, kernel):
  return convolution.direct(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel)


def main() -> None:
  """Prints the table."""
  draw = jax.random.normal
  key = jax.random.key(0)
  print(
    f"{jax.devices()[0].device_kind}, jax {jax.__version__}; chosen form in brackets"
  )
  for label, b, side, c, k in SHAPES:
    operands = draw(key, (b, side, side, c)), draw(key, (3, 3, c, k)) / (9 * c) ** 0.5
    chosen = convolution.choose(operands[0].shape, operands[1].shape, jnp.float32)
    names = ("direct", "product", "winograd")
    if side * side > 64**2:
      names = ("direct", "winograd")
    forms = {name: getattr(convolution, name) for name in names}
    text = rates(forms, operands, 2 * b * side * side * 9 * c * k)
    print(f"{label:12} {b}x{side}x{side} {c}->{k} [{chosen}]  {text}", flush=True)
  for label, b, side, c in REPEATED:
    operands = draw(key, (b, side, side, c)), draw(key, (3, 3, c, c)) / (9 * c) ** 0.5
    forms = {"direct": repeated, "phases": convolution.phases}
    text = rates(forms, operands, 8 * b * side * side * 9 * c * c)
    print(f"{label:12} {b}x{side}x{side} {c} repeated  {text}", flush=True)


if __name__ == "__main__":
  main()
