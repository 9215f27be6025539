"""How much other implementations of attention save over the plain formula.

  python tests/benchmarks/attention.py
  TPU_SKIP_MDS_QUERY=1 python tests/benchmarks/attention.py --topology v5e:2x2

The first prints, for each shape, the fastest of several interleaved runs of the plain
one and the CPU's, forward and with the gradient, and the ratio plain / blocked. Above 1
the blocked one is faster. The second compiles the gradient in bfloat16 for a chip of a
TPU slice, which need not be here (libtpu must), and prints the compiler's own counts.
"""

import argparse
import pathlib
import sys
import time

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax.models import attention, placement
from cxr_diffusion_jax.planning import collectives

# (what it is, batch, queries, keys, heads, width of a head)
SHAPES = (
  ("SD 1.5, 64x64 self", 1, 4096, 4096, 8, 40),
  ("SD 1.5, 64x64 cross", 1, 4096, 77, 8, 40),
  ("SD 1.5, 32x32 self", 1, 1024, 1024, 8, 80),
  ("small, 32x32 self", 4, 1024, 1024, 4, 64),
  ("16x16 self", 16, 256, 256, 4, 24),
  ("8x8 self", 32, 64, 64, 4, 16),
)

# Images of a chip's batch.
TPU_SHAPES = (
  ("dit_s, 32x32 self", 4, 1024, 1024, 6, 64),
  ("dit_s, 64 cross", 4, 1024, 65, 6, 64),
  ("dit_xl, 32x32 self", 4, 1024, 1024, 16, 72),
  ("base, 64x64 self", 2, 4096, 4096, 8, 40),
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


def compile_for(topology: str) -> None:
  """Prints HBM traffic and temporaries of the gradient on one chip."""
  devices = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
  mesh = jax.sharding.Mesh(np.array(devices[:1]), ("data",))
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  print(f"{topology}, jax {jax.__version__}, bfloat16, output and gradient, one chip")
  print(f"{'shape':20} {'':8} {'HBM':>10} {'temporary':>10}")
  for label, batch, num_queries, num_keys, heads, width in TPU_SHAPES:
    query, key = (
      jax.ShapeDtypeStruct((batch, n, heads, width), jnp.bfloat16, sharding=place)
      for n in (num_queries, num_keys)
    )
    for name in ("plain", "flash"):

      @placement.on_mesh(mesh)
      def run(query, key, value, cotangent, name=name):
        out, pull = jax.vjp(
          lambda *operands: attention.attend(*operands, None, name), query, key, value
        )
        return out, pull(cotangent)

      compiled = jax.jit(run).lower(query, key, key, query).compile()
      traffic = collectives.memory_traffic(compiled.as_text()) / 1e6
      temporary = compiled.memory_analysis().temp_size_in_bytes / 1e6
      print(f"{label:20} {name:8} {traffic:7.0f} MB {temporary:7.0f} MB", flush=True)


def main() -> None:
  """Prints the table of this machine, or of a slice."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--topology", default="", help="a TPU slice, such as v5e:2x2")
  topology = parser.parse_args().topology
  if topology:
    compile_for(topology)
    return
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
