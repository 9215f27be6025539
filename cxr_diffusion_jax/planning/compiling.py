"""Ahead-of-time compilation of a run's programs for a topology, with a cache.

topology --devices--> experiment --lower, compile--> Compiled: the compiler's own counts

No array is allocated: arguments are shapes with shardings. TPUs are compiled for with
libtpu, on a machine without one.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
import re
import time
from typing import cast

import jax
from jax.experimental import topologies as jax_topologies

from cxr_diffusion_jax import checked_files, errors, types
from cxr_diffusion_jax.planning import collectives as collectives_lib
from cxr_diffusion_jax.planning import inputs, topologies
from cxr_diffusion_jax.training import denoiser_trainer
from cxr_diffusion_jax.training import experiment as experiment_lib

# Seconds of one core for a traced operation; docs/results/plan.md.
SECONDS_AN_OPERATION = {"tpu": 0.007, "cpu": 0.004}

_PACKAGE = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
  """The compiler's figures of one program on one chip; bytes.

  Attributes:
    seconds: that compiling took.
    peak: of memory.
    over: bytes by which it exceeds the chip's memory, which made the compiler stop; the
      other figures are 0 then.
    flops: of all operations; the body of a loop counts once.
    traffic: bytes read and written, in all rounds of loops; on TPUs without those that
      stay on the chip.
    longest_square: see `collectives.longest_square`.
  """

  seconds: float
  arguments: float = 0.0
  temporaries: float = 0.0
  peak: float = 0.0
  over: float = 0.0
  flops: float = 0.0
  traffic: float = 0.0
  longest_square: int = 0
  collectives: dict[str, collectives_lib.Traffic] = dataclasses.field(
    default_factory=dict
  )

  @property
  def sent(self) -> float:
    """Bytes that a chip sends in all collectives."""
    return sum(kind.sent for kind in self.collectives.values())


def devices(topology: topologies.Topology) -> list[types.Device]:
  """Returns the devices of a topology that a compiler here can compile for.

  Raises:
    errors.InputError: there is no such compiler, or it does not know the topology.
  """
  if topology.compiler == "cpu":
    present = jax.devices("cpu")
    if len(present) < topology.num_chips:
      raise errors.InputError(
        f"topology {topology.name} with {len(present)} simulated devices",
        "at least as many",
        "set XLA_FLAGS=--xla_force_host_platform_device_count="
        f"{topology.num_chips} before JAX starts",
      )
    return present[: topology.num_chips]
  if not topology.compiler:
    raise errors.InputError(
      f"topology {topology.name}", "one with a compiler here: a TPU slice or cpu:N"
    )
  if importlib.util.find_spec("libtpu") is None:
    raise errors.InputError(
      f"topology {topology.name} without libtpu, the TPU compiler",
      "libtpu beside JAX; no TPU is needed",
      "pip install 'cxr-diffusion-jax[tpu]', or use --compile=false: arithmetic only",
    )
  # By default, libtpu takes a host of four chips.
  alone = {"chips_per_host_bounds": (1, 1, 1)} if topology.num_chips == 1 else {}
  try:
    return list(
      jax_topologies.get_topology_desc(
        topology_name=topology.name, platform="tpu", **alone
      ).devices
    )
  except RuntimeError as error:
    reason = str(error).strip().splitlines()[0][:200]
    raise errors.InputError(
      f"topology {topology.name}: {reason}", "a slice that libtpu can compile for"
    ) from error


def train_step(experiment: experiment_lib.Experiment) -> Compiled:
  """Compiles the training step as `main` runs it, except that nothing runs."""
  programs = denoiser_trainer.make_programs(experiment, {})
  step = cast(jax.stages.Wrapped, programs.train_step)
  batch = inputs.train_batch(experiment, experiment.train.batch_size)
  return compile_program(lambda: step.lower(programs.like(), batch))


def sampler(experiment: experiment_lib.Experiment, batch_size: int) -> Compiled:
  """Compiles the sampler as `sample` runs it; for an autoencoder, without decoding.

  Args:
    batch_size: images; rounded up to a multiple that the mesh divides.
  """
  mesh = experiment.mesh
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  b = -(-batch_size // parts) * parts
  params = denoiser_trainer.make_programs(experiment, {}).like().ema_params
  program = inputs.generator(experiment)
  batch = inputs.condition(experiment, b)
  return compile_program(lambda: program.lower(params, batch, inputs.keys(b)))


def cache_file(
  folder: pathlib.Path,
  kind: str,
  topology: topologies.Topology,
  experiment: experiment_lib.Experiment,
) -> pathlib.Path:
  """Returns where the figures of a program are cached.

  Its name follows from the config, the code of this package, versions and topology.
  """
  facts = {
    "kind": kind,
    "topology": topology.name,
    "config": {
      name: section
      for name, section in experiment.config.items()
      if name != "seed" and (name != "sample" or kind != "train")
    },
    "mesh": dict(experiment.mesh.shape),
    "code": code_fingerprint(),
    "versions": versions(),
  }
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
  return folder / f"{topology.name.replace(':', '_')}_{kind}_{digest[:16]}.json"


def read(path: pathlib.Path) -> Compiled:
  """Reads what `write` has written."""
  values = checked_files.read_json(path)
  kinds = values.pop("collectives")
  return Compiled(
    **values,
    collectives={kind: collectives_lib.Traffic(**kinds[kind]) for kind in kinds},
  )


def write(path: pathlib.Path, compiled: Compiled) -> None:
  """Writes figures as JSON."""
  path.parent.mkdir(parents=True, exist_ok=True)
  checked_files.write_json(path, dataclasses.asdict(compiled))


def expected_seconds(topology: topologies.Topology, operations: int) -> float:
  """About how long a program of so many traced operations compiles, on one core."""
  return SECONDS_AN_OPERATION[topology.compiler] * operations


def code_fingerprint() -> str:
  """A hash of this package's source."""
  digest = hashlib.sha256()
  for path in sorted(_PACKAGE.rglob("*.py")):
    digest.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
  return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
  """Versions of what compiles."""
  known = {}
  for name in ("jax", "jaxlib", "flax", "libtpu"):
    try:
      known[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      known[name] = ""
  return known


def compile_program(lower: Callable[[], jax.stages.Lowered]) -> Compiled:
  """Compiles what `lower` returns; a program too large for a chip has only `over`."""
  start = time.perf_counter()
  lowered = lower()
  try:
    program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    over = memory_excess(str(error))
    if over is None:
      raise
    return Compiled(seconds=time.perf_counter() - start, over=over)
  seconds = time.perf_counter() - start
  memory, counts = program.memory_analysis(), program.cost_analysis() or {}
  if memory is None:
    raise ValueError("this compiler does not analyse memory")
  text = program.as_text() or ""
  arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return Compiled(
    seconds=seconds,
    arguments=arguments,
    temporaries=temporaries,
    peak=max(memory.peak_memory_in_bytes, arguments + temporaries + outputs),
    flops=counts.get("flops", 0.0),
    traffic=_traffic(text, counts.get("bytes accessed", 0.0)),
    longest_square=collectives_lib.longest_square(text),
    collectives=collectives_lib.parse(text),
  )


def _traffic(text: str, accessed: float) -> float:
  if collectives_lib.ON_CHIP in text:
    return collectives_lib.memory_traffic(text)
  return accessed + collectives_lib.repeated_traffic(text)


def memory_excess(message: str) -> float | None:
  """Bytes by which a program exceeds memory, from the compiler's error; None if not."""
  size = r"([\d.]+)([KMGT]?)"

  def number_of_bytes(number: str, unit: str) -> float:
    return float(number) * 1024 ** " KMGT".index(unit or " ")

  if match := re.search(rf"[Ee]xceeded \w+ capacity by {size}", message):
    return number_of_bytes(*match.groups())
  if match := re.search(rf"\({size}\) exceeds available \w+ \({size}\)", message):
    needed, there = match.groups()[:2], match.groups()[2:]
    return number_of_bytes(*needed) - number_of_bytes(*there)
  return None
