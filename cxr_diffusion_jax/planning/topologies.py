"""Accelerators and slices by name, with the figures that their makers publish.

"v5e:4x4", "v5e-16", "v5p:2x2x2", "h100x8", "cpu:8" --parse--> Topology
"""

import dataclasses
import functools
import math
import re

from cxr_diffusion_jax import errors, naming

GB = 1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One accelerator.

  Attributes:
    tflops: dense bfloat16 products, 1e12 FLOP/s; 0 for unknown.
    memory: bytes that a program may use.
    memory_rate: bytes/s of that memory; 0 for unknown.
    link_rate: bytes/s that it sends to its neighbours, all links together, one way.
    device_kind: what `jax.Device.device_kind` calls it.
    source: where the figures are from.
  """

  name: str
  tflops: float = 0.0
  memory: float = math.inf
  memory_rate: float = 0.0
  link_rate: float = 0.0
  device_kind: str = ""
  source: str = ""


_TPU_DOCS = "https://cloud.google.com/tpu/docs"
_NVIDIA = "https://www.nvidia.com/en-us/data-center"

# Links: half of the two-way rate that is published. Memory: the compiler of v5e allows
# 15.75 of 16 GiB, and JAX takes three quarters of a GPU's unless
# XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      name="v5e",
      tflops=197,
      memory=15.75 * 2**30,
      memory_rate=819 * GB,
      link_rate=200 * GB,
      device_kind="TPU v5 lite",
      source=f"{_TPU_DOCS}/v5e",
    ),
    Chip(
      name="v5p",
      tflops=459,
      memory=95 * 2**30,
      memory_rate=2765 * GB,
      link_rate=600 * GB,
      device_kind="TPU v5",
      source=f"{_TPU_DOCS}/v5p",
    ),
    Chip(
      name="v6e",
      tflops=918,
      memory=31.25 * 2**30,
      memory_rate=1638 * GB,
      link_rate=400 * GB,
      device_kind="TPU v6 lite",
      source=f"{_TPU_DOCS}/v6e",
    ),
    Chip(
      name="h100",
      tflops=989,
      memory=0.75 * 80 * GB,
      memory_rate=3350 * GB,
      link_rate=450 * GB,
      device_kind="NVIDIA H100 80GB HBM3",
      source=f"{_NVIDIA}/h100",
    ),
    Chip(
      name="h200",
      tflops=989,
      memory=0.75 * 141 * GB,
      memory_rate=4800 * GB,
      link_rate=450 * GB,
      device_kind="NVIDIA H200",
      source=f"{_NVIDIA}/h200",
    ),
    Chip(name="cpu"),
  )
}

# Slices that Google offers, in chips a side.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SLICES = {
  "v5e": _FLAT,
  "v6e": _FLAT,
  "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
}
_GPUS = (1, 2, 4, 8)
# A v5p's chip has two cores, which its type names count: v5p-8 is 2x2x1.
_CORES = {"v5e": 1, "v6e": 1, "v5p": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
  """Chips that train together.

  Attributes:
    name: as the TPU compiler takes it, such as "v5e:4x4"; "h100x8" or "cpu:8".
  """

  name: str
  chip: Chip
  num_chips: int

  @property
  def compiler(self) -> str:
    """The platform whose compiler is used: 'tpu', 'cpu', or '' for arithmetic only."""
    if self.chip.name in _SLICES:
      return "tpu"
    return "cpu" if self.chip.name == "cpu" else ""


def parse(name: str) -> Topology:
  """Returns the topology of a name; `names` lists those with accelerators.

  Raises:
    errors.InputError: there is no such topology; lists the nearest names.
  """
  known = _by_name()
  if name in known:
    return known[name]
  if match := re.fullmatch(r"cpu:([1-9]\d{0,2})", name):
    return Topology(name=name, chip=CHIPS["cpu"], num_chips=int(match[1]))
  raise errors.InputError(
    f"topology {name!r}",
    "a TPU slice such as v5e:4x4 or v5e-16, GPUs such as h100x8, or cpu:8",
    naming.nearest(name, (*known, "cpu:8")),
  )


def names() -> tuple[str, ...]:
  """Returns all names of topologies of accelerators."""
  return tuple(_by_name())


def larger(topology: Topology) -> tuple[Topology, ...]:
  """Returns topologies of the same chip with more chips, the smallest first."""
  others = {t.num_chips: t for t in _by_name().values() if t.chip == topology.chip}
  return tuple(others[n] for n in sorted(others) if n > topology.num_chips)


def chip_of(device_kind: str) -> Chip | None:
  """Returns the chip that JAX calls `device_kind`, or None."""
  kinds = {chip.device_kind: chip for chip in CHIPS.values() if chip.device_kind}
  return kinds.get(device_kind)


@functools.cache
def _by_name() -> dict[str, Topology]:
  known = {}
  for chip, shapes in _SLICES.items():
    for shape in shapes:
      count = math.prod(int(side) for side in shape.split("x"))
      topology = Topology(name=f"{chip}:{shape}", chip=CHIPS[chip], num_chips=count)
      known[topology.name] = topology
      known[f"{chip}-{count * _CORES[chip]}"] = topology
  for chip in ("h100", "h200"):
    for count in _GPUS:
      name = f"{chip}x{count}"
      known[name] = Topology(name=name, chip=CHIPS[chip], num_chips=count)
  return known
