"""Seconds and memory that compiling a training step for a TPU slice takes here.

  TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python tests/benchmarks/compile_time.py \\
    --size dit_s dit_xl --topology v5e:4x4 [--scan_blocks False] [--level O1]

Needs libtpu, which `pip install libtpu` adds, and no TPU: the step is compiled from
shapes. Prints a Markdown row for each size: seconds to trace and to compile, CPU time
of both, memory of a chip, and the peak memory of this process. XLA's own counts of
FLOPs and bytes are left out, because they count a loop's body once.
"""

import argparse
import pathlib
import resource
import sys
import time

import jax
from jax.experimental import topologies

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from configs import elixr_c
from cxr_diffusion_jax.planning import inputs
from cxr_diffusion_jax.training import denoiser_trainer
from cxr_diffusion_jax.training import experiment as experiment_lib

COLUMNS = ("size", "batch", "scanned", "trace s", "compile s", "CPU s")
COLUMNS += ("arguments GiB", "peak GiB", "host GiB")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", nargs="+", default=["dit_tiny"])
  parser.add_argument("--topology", default="v5e:2x2")
  parser.add_argument("--batch", type=int, default=0, help="0 for the size's own")
  parser.add_argument("--fsdp", type=int, default=1)
  parser.add_argument("--scan_blocks", default="auto")
  parser.add_argument("--level", default="", help="XLA's optimization level: O0 to O3")
  arguments = parser.parse_args()
  if arguments.level:
    jax.config.update("jax_optimization_level", arguments.level)
  topology = topologies.get_topology_desc(
    topology_name=arguments.topology, platform="tpu"
  )
  print(f"{arguments.topology}, fsdp {arguments.fsdp}", arguments.level)
  print(f"| {' | '.join(COLUMNS)} |\n|:--|{'--:|' * (len(COLUMNS) - 1)}", flush=True)
  for size in arguments.size:
    print(f"| {size} | {' | '.join(row(size, arguments, topology.devices))} |")
    sys.stdout.flush()


def row(size: str, arguments: argparse.Namespace, devices: list) -> list[str]:
  """The cells of a size after its name."""
  cpu = cpu_seconds()
  config = elixr_c.get_config(size)
  config.parallel.fsdp = arguments.fsdp
  if "scan_blocks" in config.model:
    config.model.scan_blocks = arguments.scan_blocks
  if arguments.batch:
    config.train.batch_size = arguments.batch
  experiment = experiment_lib.build(config, devices)
  programs = denoiser_trainer.make_programs(experiment, {})
  start = time.perf_counter()
  batch = inputs.train_batch(experiment, experiment.train.batch_size)
  lowered = programs.train_step.lower(programs.like(), batch)
  ready = time.perf_counter()
  memory = lowered.compile().memory_analysis()
  return [
    str(config.train.batch_size),
    str(getattr(experiment.recipe.network, "scan_blocks", False)),
    f"{ready - start:.0f}",
    f"{time.perf_counter() - ready:.0f}",
    f"{cpu_seconds() - cpu:.0f}",
    f"{memory.argument_size_in_bytes / 2**30:.2f}",
    f"{memory.peak_memory_in_bytes / 2**30:.2f}",
    f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f}",
  ]


def cpu_seconds() -> float:
  """Of this process so far."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
  main()
