"""Speed, memory and accuracy on one GPU, with random data and random weights.

  tests/benchmarks/gpu.sh [--out FOLDER] [--tiny]

Each part is a process of its own. All compile at the same time, for five minutes at
most; then each runs alone on the card. A part that fails or is too late is reported and
leaves the others their turn. Prints the figures and writes OUT/gpu.json. `--tiny` runs
the same code at small sizes, on a CPU too.

  attention   cuDNN's kernel beside the plain formula, and the error of both
  SIZE        a training step: images/s, memory, share of the peak
  peer_SIZE   the same UNet by diffusers under `torch.compile`, where both are installed
  sample_*    images/s of the default sampler
  vae         encoding and decoding 512x512
  bf16        the loss of 50 steps in bfloat16 beside float32

Share of the peak: FLOPs of the matrix products and convolutions, without what `remat`
repeats, over seconds and the rate of an 8192^3 product in the same process. A cycle is
the median of five.
"""

import argparse
from collections.abc import Callable, Iterator
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SECONDS_TO_COMPILE, SECONDS_TO_RUN = 300, 60

# Speed means nothing at tiny size.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

# Part -> (config size, batch), full and tiny.
TRAINING = {
  "small": (("small", 64), ("tiny", 4)),
  "dit_s": (("dit_s", 64), ("dit_tiny", 4)),
  "dit_b": (("dit_b", 64), ("dit_tiny", 4)),
  "sd15": (("kl_base", 16), ("tiny", 4)),
}
SAMPLING = {
  "sample_small": (("small", 32), ("tiny", 2)),
  "sample_dit_b": (("dit_b", 16), ("dit_tiny", 2)),
}
PARTS = ("small", "dit_b", "sd15", "peer_sd15", "bf16", "dit_s", "attention", "vae")
PARTS = (*PARTS, *SAMPLING)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", default="runs/gpu")
  parser.add_argument("--tiny", action="store_true")
  parser.add_argument("--parts", default=",".join(PARTS))
  parser.add_argument("--part", choices=PARTS, help="of a child process")
  arguments = parser.parse_args()
  if arguments.part:
    run_part(arguments.part, arguments.tiny)
    return
  wanted = arguments.parts.split(",")
  unknown = sorted(set(wanted) - set(PARTS))
  if unknown:
    parser.error(f"--parts {','.join(unknown)}; expected some of {', '.join(PARTS)}")
  results = run_all(wanted, arguments.tiny)
  out = pathlib.Path(arguments.out)
  out.mkdir(parents=True, exist_ok=True)
  (out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
  for name, result in results.items():
    print(f"\n{name}")
    for row in result.get("rows", [result]):
      print("  " + "  ".join(f"{key} {value}" for key, value in row.items()))
  sys.exit(any("error" in result for result in results.values()))


def run_all(parts: list[str], tiny: bool) -> dict[str, dict]:
  """Compiles all parts together, then runs one at a time."""
  command = [sys.executable, __file__, *(["--tiny"] if tiny else []), "--part"]
  # Memory is not set aside, since several processes share the card.
  environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
  if tiny:
    environment["XLA_FLAGS"] = QUICK
  children = {part: Child([*command, part], environment) for part in parts}
  patience = 5 if tiny else 1
  deadline = time.monotonic() + SECONDS_TO_COMPILE * patience
  for child in children.values():
    child.wait_for_compilation(deadline)
  results = {}
  for part, child in children.items():
    results[part] = child.run(SECONDS_TO_RUN * patience)
    print(f"{part}: {'failed' if 'error' in results[part] else 'done'}", flush=True)
  return results


class Child:
  """A part's process: prints `ready`, waits for a line, prints its result as JSON."""

  def __init__(self, command: list[str], environment: dict[str, str]):
    self._start = time.monotonic()
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=environment,
    )
    self._lines: list[str] = []
    self._changed = threading.Condition()
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()
    self._ready = False

  def wait_for_compilation(self, deadline: float) -> None:
    """Waits until the process is ready, has ended, or is too late and is killed."""
    with self._changed:
      self._changed.wait_for(
        lambda: "ready" in self._lines or self._process.poll() is not None,
        timeout=max(0.0, deadline - time.monotonic()),
      )
      self._ready = "ready" in self._lines
      if not self._ready and self._process.poll() is None:
        # It would disturb the others' measurements.
        self._process.kill()
        self._lines.append(f"not compiled after {time.monotonic() - self._start:.0f} s")

  def run(self, seconds: float) -> dict:
    """Lets the process run, and returns its result or its error."""
    if self._ready and self._process.stdin is not None:
      self._process.stdin.write("go\n")
      self._process.stdin.flush()
      try:
        self._process.wait(seconds)
      except subprocess.TimeoutExpired:
        self._lines.append(f"more than {seconds} s")
    self._process.kill()
    self._process.wait()
    self._reader.join(5)
    last = next((line for line in reversed(self._lines) if line), "no output")
    try:
      return json.loads(last)
    except json.JSONDecodeError:
      return {"error": "\n".join(self._lines[-12:])}

  def _read(self) -> None:
    for line in self._process.stdout or ():
      with self._changed:
        self._lines.append(line.rstrip("\n"))
        self._changed.notify_all()
    # The pipe closes just before the process can be asked for its exit code.
    self._process.wait()
    with self._changed:
      self._changed.notify_all()


def run_part(part: str, tiny: bool) -> None:
  """Compiles, waits for the turn, measures and prints the result."""
  start = time.perf_counter()
  steps = prepare(part, tiny)
  next(steps)
  seconds = time.perf_counter() - start
  print("ready", flush=True)
  sys.stdin.readline()
  result = next(steps)
  print(json.dumps({"compiling": f"{seconds:.0f} s"} | result), flush=True)


def prepare(part: str, tiny: bool) -> Iterator[dict]:
  """A generator that compiles up to its first yield, and yields the result second."""
  if part in TRAINING:
    return train(*TRAINING[part][tiny], tiny)
  if part in SAMPLING:
    return sample(*SAMPLING[part][tiny])
  return {"attention": attention, "peer_sd15": peer, "vae": vae, "bf16": precision}[
    part
  ](tiny)


def make_experiment(size: str, batch: int, dtype: str = "auto", **train):
  """The experiment of configs/elixr_b.py at a size, whose condition needs no file."""
  from configs import elixr_b
  from cxr_diffusion_jax.training import experiment as experiment_lib

  config = elixr_b.get_config(size)
  config.train.batch_size = batch
  config.train.update(train)
  config.model.dtype = dtype
  config.parallel.num_devices = 1
  return experiment_lib.build(config)


def make_batch(experiment, seed: int = 0) -> dict:
  """Random images and conditions."""
  import numpy as np

  rng = np.random.default_rng(seed)
  b = experiment.train.batch_size
  needs = experiment.recipe.conditioner.needs
  streams = experiment.recipe.conditioner.streams
  batch = {
    column: rng.normal(size=(b, stream.num_tokens, stream.width)).astype(np.float32)
    for column, stream in zip(needs.columns, streams, strict=True)
  }
  columns = experiment.recipe.codec.columns
  if columns:
    h, w, c = experiment.recipe.latent_shape
    for column in columns:
      batch[column] = rng.normal(size=(b, h, w, 2 * c)).astype(np.float32)
  else:
    side = experiment.config["data"]["image_size"]
    coarse = rng.uniform(-1, 1, size=(b, 8, 8, 1)).astype(np.float32)
    batch["image"] = np.kron(coarse, np.ones((1, side // 8, side // 8, 1), np.float32))
  return batch


def rates(run: Callable[[], object], images: int, seconds: float = 1.5) -> list[float]:
  """Images per second of five cycles of about `seconds`; `run` waits for its result."""
  run()
  start = time.perf_counter()
  run()
  count = max(1, round(seconds / (time.perf_counter() - start)))
  measured = []
  for _ in range(5):
    start = time.perf_counter()
    for _ in range(count):
      run()
    measured.append(count * images / (time.perf_counter() - start))
  return measured


def matmul_tflops(tiny: bool) -> float:
  """The rate of a bfloat16 product of two large random matrices."""
  import jax
  import jax.numpy as jnp

  n = 256 if tiny else 8192
  a, b = (
    jax.random.normal(k, (n, n), jnp.bfloat16)
    for k in jax.random.split(jax.random.key(0))
  )
  product = jax.jit(lambda a, b: a @ b)
  each = rates(lambda: product(a, b).block_until_ready(), 1, 0.2)
  return statistics.median(each) * 2 * n**3 / 1e12


def memory_gib() -> str:
  """The most device memory that this process has used."""
  import jax

  statistics_of = jax.devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" not in statistics_of:
    return "not counted"
  return f"{statistics_of['peak_bytes_in_use'] / 2**30:.1f} GiB"


def describe(measured: list[float]) -> str:
  """Median and range."""
  return (
    f"{statistics.median(measured):.3g} ({min(measured):.3g} to {max(measured):.3g})"
  )


def train(size: str, batch: int, tiny: bool) -> Iterator[dict]:
  """A training step of a size."""
  import jax

  from cxr_diffusion_jax.extras import cost
  from cxr_diffusion_jax.parallel import sharding
  from cxr_diffusion_jax.training import denoiser_trainer

  experiment = make_experiment(size, batch)
  programs = denoiser_trainer.make_programs(experiment, {})
  host_batch = make_batch(experiment)
  step = programs.train_step.lower(programs.like(), shapes(host_batch, experiment))
  step = step.compile()
  flops = batch * cost.of_experiment(experiment).training
  state = jax.block_until_ready(programs.init())
  yield {}
  placed = sharding.place_batch(host_batch, experiment.mesh)

  def run() -> None:
    nonlocal state
    state, metrics = step(state, placed)
    jax.block_until_ready(metrics)

  measured = rates(run, batch)
  rate = statistics.median(measured)
  memory = memory_gib()
  peak = matmul_tflops(tiny)
  tflops = rate / batch * flops / 1e12
  yield {
    "batch": batch,
    "images/s": describe(measured),
    "step": f"{1e3 * batch / rate:.1f} ms",
    "memory": memory,
    "TFLOP/s": f"{tflops:.3g}",
    "of a product's": f"{peak:.3g}",
    "share": f"{tflops / peak:.1%}",
  }


def shapes(batch: dict, experiment):
  """Shapes of a batch on the experiment's mesh."""
  import jax

  from cxr_diffusion_jax.parallel import sharding

  place = sharding.batch_sharding(experiment.mesh)
  return {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=place)
    for name, value in batch.items()
  }


def sample(size: str, batch: int) -> Iterator[dict]:
  """The default sampler with guidance."""
  import jax
  import numpy as np

  from cxr_diffusion_jax.sampling import generate

  experiment = make_experiment(size, batch)
  generator = generate.make_generator(experiment.recipe)
  params = jax.jit(experiment.recipe.init_fn)(jax.random.key(0))
  fields = make_batch(experiment)
  fields = {name: fields[name] for name in experiment.recipe.conditioner.needs.columns}

  def run() -> None:
    generator.generate(
      params, fields, seed=0, numbers=np.arange(batch), batch_size=batch
    )

  run()
  yield {}
  yield {
    "batch": batch,
    "evaluations an image": generator.evaluations(),
    "images/s": describe(rates(run, batch)),
    "memory": memory_gib(),
  }


def attention(tiny: bool) -> Iterator[dict]:
  """cuDNN's attention beside the plain formula, bfloat16, forward and with gradient."""
  import jax
  import jax.numpy as jnp

  from cxr_diffusion_jax.models import attention as attention_lib

  kernels = ("plain", "blocked" if jax.default_backend() == "cpu" else "cudnn")
  table = (
    ("SD 1.5, 64x64 self", 8, 4096, 4096, 8, 40),
    ("SD 1.5, 64x64 to 77", 8, 4096, 77, 8, 40),
    ("SD 1.5, 32x32 self", 16, 1024, 1024, 8, 80),
    ("dit_b, 32x32 self", 32, 1024, 1024, 12, 64),
    ("small, 16x16 self", 64, 256, 256, 8, 32),
  )
  if tiny:
    table = (("tiny", 2, 64, 64, 4, 16), ("tiny to 77", 2, 64, 77, 4, 16))
  compiled = []
  for label, b, q, k, h, d in table:
    keys = jax.random.split(jax.random.key(0), 3)
    operands = tuple(
      jax.random.normal(key, (b, n, h, d), jnp.bfloat16)
      for key, n in zip(keys, (q, k, k), strict=True)
    )
    # A mask of conditions; none in self-attention.
    mask = None if q == k else jnp.arange(k) < k - 7
    mask = None if mask is None else jnp.broadcast_to(mask, (b, k))

    def forward(operands, mask, name):
      return attention_lib.attend(*operands, mask, name)

    def gradient(operands, mask, name):
      def loss(operands):
        return jnp.sum(forward(operands, mask, name).astype(jnp.float32) ** 2)

      return jax.grad(loss)(operands)

    functions = {
      (kind, name): jax.jit(function, static_argnums=2)
      .lower(operands, mask, name)
      .compile()
      for name in kernels
      for kind, function in (("forward", forward), ("gradient", gradient))
    }
    exact = jax.jit(forward, static_argnums=2)
    truth = exact(tuple(x.astype(jnp.float32) for x in operands), mask, "plain")
    compiled.append((label, operands, mask, functions, truth))
  yield {}
  rows = []
  for label, operands, mask, functions, truth in compiled:
    row = {"shape": label}
    for (kind, name), function in functions.items():

      def run(function=function, operands=operands, mask=mask) -> None:
        jax.block_until_ready(function(operands, mask))

      milliseconds = 1e3 / statistics.median(rates(run, 1, 0.1))
      row[f"{name} {kind}"] = f"{milliseconds:.2f} ms"
      if kind == "forward":
        error = function(operands, mask).astype(jnp.float32) - truth
        relative = jnp.linalg.norm(error) / jnp.linalg.norm(truth)
        row[f"{name} error"] = f"{float(relative):.1e}"
    rows.append(row)
  yield {"rows": rows}


def vae(tiny: bool) -> Iterator[dict]:
  """Stable Diffusion's autoencoder with random weights."""
  import jax
  import jax.numpy as jnp

  from cxr_diffusion_jax.models import autoencoder, placement
  from cxr_diffusion_jax.parallel import mesh as mesh_lib

  side, batch = (32, 1) if tiny else (512, 8)
  dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
  channels = (32, 32, 32, 32) if tiny else (128, 256, 512, 512)
  network = autoencoder.AutoencoderKL(block_channels=channels, dtype=dtype)
  images = jax.random.uniform(jax.random.key(0), (batch, side, side, 3))
  params = jax.jit(network.init)(jax.random.key(0), images)
  # Attention is chosen by the mesh's platform.
  placed = placement.on_mesh(mesh_lib.make_mesh())
  encode = jax.jit(placed(lambda p, x: network.apply(p, x, method="encode")))
  decode = jax.jit(placed(lambda p, z: network.apply(p, z, method="decode")))
  latent = jax.block_until_ready(encode(params, images))[0]
  jax.block_until_ready(decode(params, latent))
  yield {}
  yield {
    "batch": batch,
    "encode images/s": describe(
      rates(lambda: jax.block_until_ready(encode(params, images)), batch)
    ),
    "decode images/s": describe(
      rates(lambda: jax.block_until_ready(decode(params, latent)), batch)
    ),
    "memory": memory_gib(),
  }


def precision(tiny: bool) -> Iterator[dict]:
  """Losses of 50 steps of `small`, the same batches and noise in both precisions."""
  import numpy as np

  from cxr_diffusion_jax.parallel import sharding
  from cxr_diffusion_jax.training import denoiser_trainer

  size, batch = ("tiny", 4) if tiny else ("small", 32)
  losses, runs = {}, {}
  for dtype in ("float32", "bfloat16"):
    experiment = make_experiment(size, batch, dtype)
    programs = denoiser_trainer.make_programs(experiment, {})
    like = shapes(make_batch(experiment), experiment)
    step = programs.train_step.lower(programs.like(), like).compile()
    runs[dtype] = (experiment, programs.init(), step)
  yield {}
  for dtype, (experiment, state, step) in runs.items():
    losses[dtype] = []
    for number in range(50):
      host_batch = make_batch(experiment, number)
      state, metrics = step(state, sharding.place_batch(host_batch, experiment.mesh))
      losses[dtype].append(float(metrics["loss"]))
  full, half = (np.asarray(losses[dtype]) for dtype in ("float32", "bfloat16"))
  yield {
    "first loss": f"{full[0]:.4f}, {half[0]:.4f}",
    "mean of the last ten": f"{full[-10:].mean():.4f}, {half[-10:].mean():.4f}",
    "largest relative difference": f"{np.abs(half / full - 1).max():.1e}",
  }


def peer(tiny: bool) -> Iterator[dict]:
  """The UNet of `sd15` by diffusers: bfloat16 autocast, channels last, AdamW, compiled.

  The same shapes: 64x64x4, the tokens of configs/elixr_b.py. Its step includes an
  average of the parameters, as ours does; it does not recompute activations.
  """
  from diffusers import UNet2DConditionModel
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  batch = 2 if tiny else 16
  channels = (32, 32, 32, 32) if tiny else (320, 640, 1280, 1280)
  side = 16 if tiny else 64
  torch.set_float32_matmul_precision("high")
  net = UNet2DConditionModel(
    sample_size=side, block_out_channels=channels, cross_attention_dim=768
  )
  net = net.to(device).to(memory_format=torch.channels_last)
  average = [p.detach().clone() for p in net.parameters()]
  optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=device == "cuda")
  x = torch.randn(batch, 4, side, side, device=device).to(
    memory_format=torch.channels_last
  )
  t = torch.rand(batch, device=device)
  tokens = torch.randn(batch, 128, 768, device=device)
  target = torch.randn_like(x)
  compiled = torch.compile(net)

  def run() -> None:
    with torch.autocast(device, torch.bfloat16):
      loss = ((compiled(x, t, tokens).sample - target) ** 2).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch._foreach_lerp_(average, list(net.parameters()), 1e-4)
    if device == "cuda":
      torch.cuda.synchronize()

  run()
  yield {}
  measured = rates(run, batch)
  memory = "not counted"
  if device == "cuda":
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
  rate = statistics.median(measured)
  yield {
    "batch": batch,
    "images/s": describe(measured),
    "step": f"{1e3 * batch / rate:.1f} ms",
    "memory": memory,
    "versions": f"torch {torch.__version__}",
  }


if __name__ == "__main__":
  main()
