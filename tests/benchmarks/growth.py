"""How a training step's cost grows with batch, latent side and width, with exponents.

  python tests/benchmarks/growth.py [--plot docs/results/growth.png]

A UNet of two levels with attention in the second, float32, AdamW. Seconds are CPU time,
the median of three steps, which load of the machine changes less than wall time. Memory
is XLA's: arguments and temporaries of the compiled step. An exponent e is the slope of
log cost over log size from the smallest to the largest: cost ~ size^e. Where a fixed
part matters, as in small sizes, it is lower than in the limit.
"""

import argparse
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax import types
from cxr_diffusion_jax.models.denoisers import unet

# What grows -> its values; the others are as in BASE.
BASE = {"batch": 4, "side": 16, "width": 64}
GROWTH = {"batch": (2, 4, 8, 16), "side": (8, 16, 32), "width": (32, 64, 128)}


def cost(batch: int, side: int, width: int) -> dict[str, float]:
  """Seconds and MB of a training step, and millions of parameters."""
  net = unet.UNet(
    block_channels=(width, 2 * width),
    num_layers=1,
    attention=(False, True),
    num_heads=4,
    context_width=64,
  )
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  x, target = draw(batch, side, side, 4), draw(batch, side, side, 4)
  t, mask = jnp.linspace(0.1, 0.9, batch), jnp.ones((batch, 16), bool)
  context = (types.TokenStream(tokens=draw(batch, 16, 64), mask=mask),)
  params = jax.jit(net.init)(jax.random.key(0), x, t, context)
  tx = optax.adamw(1e-4)

  def update(state):
    def loss_of(params):
      return jnp.mean((net.apply(params, x, t, context) - target) ** 2)

    params, opt_state = state
    updates, opt_state = tx.update(jax.grad(loss_of)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  state = (params, tx.init(params))
  step = jax.jit(update, donate_argnums=0).lower(state).compile()
  memory = step.memory_analysis()
  state = jax.block_until_ready(step(state))
  seconds = []
  for _ in range(3):
    start = time.process_time()
    state = jax.block_until_ready(step(state))
    seconds.append(time.process_time() - start)
  return {
    "seconds": statistics.median(seconds),
    "MB": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e6,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6,
  }


def exponent(sizes: list[float], costs: list[float]) -> float:
  """The slope in logarithms."""
  return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def plot(results: dict[str, tuple[list, list[dict]]], path: str) -> None:
  """Draws both costs over each size."""
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, len(results), figsize=(9, 3), layout="constrained")
  for axis, (name, (sizes, costs)) in zip(axes, results.items(), strict=True):
    for key in ("seconds", "MB"):
      values = [one[key] for one in costs]
      label = f"{key} ~ {name}^{exponent(sizes, values):.2f}"
      axis.loglog(sizes, np.array(values) / values[0], "o-", label=label)
    axis.set(xlabel=name, ylabel="cost / the smallest's")
    axis.legend(frameon=False, fontsize=8)
  figure.savefig(path, dpi=100)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--plot", default="", help="a picture to write")
  arguments = parser.parse_args()
  print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; base {BASE}")
  results = {}
  for name, sizes in GROWTH.items():
    costs = [cost(**{**BASE, name: size}) for size in sizes]
    measure = {name: list(sizes)}
    if name == "width":
      measure["parameters"] = [one["parameters"] for one in costs]
    for what, values in measure.items():
      results[what] = values, costs
      for key in ("seconds", "MB"):
        each = [one[key] for one in costs]
        row = "  ".join(f"{x:.3g}: {y:.3g}" for x, y in zip(values, each, strict=True))
        print(f"{key:8} ~ {what}^{exponent(values, each):.2f}   {row}", flush=True)
  if arguments.plot:
    plot(results, arguments.plot)


if __name__ == "__main__":
  main()
