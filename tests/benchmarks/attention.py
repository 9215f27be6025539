"""How much the blocked attention of the CPU saves over the plain formula.

  python tests/benchmarks/attention.py

Prints, for each shape, the fastest of several interleaved runs of both, forward and
with the gradient, and the ratio plain / blocked. Above 1 the blocked one is faster.
"""

import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax.models import attention

# (what it is, batch, queries, keys, heads, width of a head)
SHAPES = (
  ("SD 1.5, 64x64 self", 1, 4096, 4096, 8, 40),
  ("SD 1.5, 64x64 cross", 1, 4096, 77, 8, 40),
  ("SD 1.5, 32x32 self", 1, 1024, 1024, 8, 80),
  ("small, 32x32 self", 4, 1024, 1024, 4, 64),
  ("16x16 self", 16, 256, 256, 4, 24),
  ("8x8 self", 32, 64, 64, 4, 16),
)


def fastest(functions, operands, num_runs: int) -> list[float]:
  """Seconds of each function's fastest run; the runs take turns."""
  for function in functions:
    jax.block_until_ready(function(*operands))
  seconds = [[] for _ in functions]
  for _ in range(num_runs):
    for function, times in zip(functions, seconds, strict=True):
      start = time.perf_counter()
      jax.block_until_ready(function(*operands))
      times.append(time.perf_counter() - start)
  return [min(times) for times in seconds]


def compare(batch, num_queries, num_keys, heads, width, num_runs: int = 5):
  """Seconds [[plain, blocked] forward, [plain, blocked] with gradient], difference."""
  rng = np.random.default_rng(0)

  def draw(length):
    return jnp.asarray(rng.normal(size=(batch, length, heads, width)), jnp.float32)

  operands = draw(num_queries), draw(num_keys), draw(num_keys)
  forward, gradient, outputs = [], [], []
  for name in ("plain", "blocked"):

    def run(query, key, value, name=name):
      return attention.attend(query, key, value, None, name)

    def loss(*operands, run=run):
      return jnp.sum(run(*operands) ** 2)

    forward.append(jax.jit(run))
    gradient.append(jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))))
    outputs.append(forward[-1](*operands))
  difference = float(jnp.max(jnp.abs(outputs[0] - outputs[1])))
  times = [fastest(functions, operands, num_runs) for functions in (forward, gradient)]
  return times, difference


def main() -> None:
  """Prints the table."""
  print(f"backend {jax.default_backend()}, jax {jax.__version__}")
  print(f"{'shape':20} {'pass':8} {'plain':>9} {'blocked':>9} {'ratio':>6}  auto")
  for label, *shape in SHAPES:
    times, difference = compare(*shape)
    batch, num_queries, _, heads, width = shape
    query = jax.ShapeDtypeStruct((batch, num_queries, heads, width), jnp.float32)
    choice = attention.choose(query, shape[2], jax.default_backend())
    for name, (plain, blocked) in zip(("forward", "gradient"), times, strict=True):
      print(
        f"{label:20} {name:8} {plain * 1e3:7.1f}ms {blocked * 1e3:7.1f}ms "
        f"{plain / blocked:6.2f}  {choice}"
      )
    print(f"{'':20} largest difference {difference:.1e}", flush=True)


if __name__ == "__main__":
  main()
