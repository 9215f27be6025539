"""One side of a part of `python tests/benchmarks`: loads, warms up, runs when asked.

  python tests/benchmarks/sides.py ours|peer PART [--steps N] [--compile] [--tiny]

Answers each line of its input with a line of JSON: `run` with the seconds of one run,
`end` with the peak memory: of the whole process, and of its runs after the first, which
compiles. The first line comes unasked, after the first run.
"""

import argparse
from collections.abc import Callable
import contextlib
import ctypes
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

# Part -> (channels, side, context tokens and width, batch) of a UNet; full and tiny.
UNETS = {
  "small": (((64, 128, 256, 256), 32, (77, 256), 8), ((32, 32), 8, (5, 16), 2)),
  "sd": (((320, 640, 1280, 1280), 64, (77, 768), 1), ((32, 32), 8, (5, 16), 1)),
}
GUIDANCE = 4.0

# One run, its parameters, and versions.
Part = tuple[Callable[[], object], int, str]


def ours(part: str, options: argparse.Namespace) -> Part:
  """A part by this package."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from cxr_diffusion_jax import types
  from cxr_diffusion_jax.diffusion import guidance, sampler
  from cxr_diffusion_jax.diffusion.process import Process
  from cxr_diffusion_jax.models import autoencoder
  from cxr_diffusion_jax.models.denoisers import unet

  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  def finish(step, params):
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    run = lambda: jax.block_until_ready(step())  # noqa: E731
    return run, count, f"jax {jax.__version__}"

  if part.startswith("vae"):
    side = 32 if options.tiny else 512
    channels = (32, 32) if options.tiny else (128, 256, 512, 512)
    net = autoencoder.AutoencoderKL(block_channels=channels)
    params = jax.jit(net.init)(jax.random.key(0), draw(1, side, side, 3))
    method = part.removeprefix("vae_")
    low = side // net.factor
    x = draw(1, side, side, 3) if method == "encode" else draw(1, low, low, 4)
    apply = jax.jit(lambda params, x: net.apply(params, x, method=method))
    return finish(lambda: apply(params, x), params)

  channels, side, (tokens, width), b = shape_of(part, options)
  attention = (True,) * (len(channels) - 1) + (False,)
  net = unet.UNet(block_channels=channels, attention=attention, context_width=width)
  x, t = draw(b, side, side, 4), jnp.linspace(0.1, 0.9, b)
  target, mask = draw(b, side, side, 4), jnp.ones((b, tokens), bool)
  context = (types.TokenStream(tokens=draw(b, tokens, width), mask=mask),)
  params = jax.jit(net.init)(jax.random.key(0), x, t, context)
  if part.endswith("forward"):
    apply = jax.jit(net.apply)
    return finish(lambda: apply(params, x, t, context), params)
  if part == "ddim":
    drop = lambda context: jax.tree.map(jnp.zeros_like, context)  # noqa: E731
    draws = sampler.Sampler(method=sampler.load("ddim")(), num_steps=options.steps)

    @jax.jit
    def sample(params, noise):
      denoise_fn = lambda *inputs: net.apply(params, *inputs)  # noqa: E731
      guided = guidance.classifier_free(denoise_fn, drop, GUIDANCE)
      return draws(Process(), guided, noise, context)

    return finish(lambda: sample(params, x), params)
  tx = optax.adamw(1e-4)
  state = (params, jax.jit(tx.init)(params))

  def update(state, x, t, context, target):
    def loss_of(params):
      return jnp.mean((net.apply(params, x, t, context) - target) ** 2)

    params, opt_state = state
    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  step = jax.jit(update, donate_argnums=0)

  def train():
    nonlocal state
    state, loss = step(state, x, t, context, target)
    return state, loss

  return finish(train, params)


def peer(part: str, options: argparse.Namespace) -> Part:
  """The same by diffusers."""
  import diffusers
  import torch

  torch.manual_seed(0)
  last = torch.channels_last

  def finish(step, net):
    count = sum(p.numel() for p in net.parameters())
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    return step, count, versions + (", compiled" if options.compile else "")

  if part.startswith("vae"):
    side = 32 if options.tiny else 512
    channels = (32, 32) if options.tiny else (128, 256, 512, 512)
    net = diffusers.AutoencoderKL(
      block_out_channels=channels,
      down_block_types=("DownEncoderBlock2D",) * len(channels),
      up_block_types=("UpDecoderBlock2D",) * len(channels),
      layers_per_block=2,
      latent_channels=4,
    )
    net = net.to(memory_format=last).eval()
    method = part.removeprefix("vae_")
    low = side // 2 ** (len(channels) - 1)
    shape = (1, 3, side, side) if method == "encode" else (1, 4, low, low)
    x = torch.randn(shape).to(memory_format=last)
    apply = getattr(net, method)
    apply = torch.compile(apply) if options.compile else apply

    @torch.inference_mode()
    def run():
      return apply(x)

    return finish(run, net)
  channels, side, (tokens, width), b = shape_of(part, options)
  down = ("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",)
  net = diffusers.UNet2DConditionModel(
    sample_size=side,
    block_out_channels=channels,
    cross_attention_dim=width,
    down_block_types=down,
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1),
  ).to(memory_format=last)
  x = torch.randn(b, 4, side, side).to(memory_format=last)
  t, context = torch.linspace(100, 900, b), torch.randn(b, tokens, width)
  target = torch.randn_like(x)
  apply = torch.compile(net) if options.compile else net
  if part.endswith("forward"):

    @torch.inference_mode()
    def forward():
      return apply(x, t, context).sample

    return finish(forward, net.eval())
  if part == "ddim":
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(options.steps)
    both = torch.cat([torch.zeros_like(context), context])
    net.eval()

    @torch.inference_mode()
    def sample():
      now = x
      for step in scheduler.timesteps:
        weak, good = apply(torch.cat([now, now]), step, both).sample.chunk(2)
        guided = weak + GUIDANCE * (good - weak)
        now = scheduler.step(guided, step, now).prev_sample
      return now

    return finish(sample, net)
  optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

  def train():
    optimizer.zero_grad(set_to_none=True)
    loss = ((apply(x, t, context).sample - target) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss.item()

  return finish(train, net)


def shape_of(part: str, options: argparse.Namespace) -> tuple:
  """Channels, side, context and batch of a part's UNet."""
  return UNETS["sd" if part.startswith("sd") else "small"][options.tiny]


def answer(values: dict) -> None:
  """Writes a line of JSON."""
  print(json.dumps(values), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("side", choices=("ours", "peer"))
  parser.add_argument("part")
  parser.add_argument("--steps", type=int, default=50)
  parser.add_argument("--compile", action="store_true")
  parser.add_argument("--tiny", action="store_true")
  options = parser.parse_args()
  start = time.perf_counter()
  try:
    run, count, versions = {"ours": ours, "peer": peer}[options.side](
      options.part, options
    )
  except ImportError as error:
    answer({"error": f"{error}; pip install torch diffusers, or name a --peer"})
    return
  run()
  ready = time.perf_counter() - start
  # As training does after its first step; then resets the peak, on Linux.
  whole = peak_gib()
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL("libc.so.6").malloc_trim(0)
  with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
  answer(
    {
      "million_parameters": count / 1e6,
      "versions": versions,
      "seconds_to_first_run": round(ready, 1),
    }
  )
  for line in sys.stdin:
    if line.strip() == "end":
      break
    start, cpu = time.perf_counter(), time.process_time()
    run()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    answer({"seconds": seconds, "cpu_seconds": cpu_seconds})
  running = peak_gib()
  answer({"peak_gib": max(whole, running), "running_gib": running})


def peak_gib() -> float:
  """The most memory that was resident."""
  for line in pathlib.Path("/proc/self/status").read_text(encoding="ascii").split("\n"):
    if line.startswith("VmHWM:"):
      return int(line.split()[1]) / 2**20
  return 0.0


if __name__ == "__main__":
  main()
