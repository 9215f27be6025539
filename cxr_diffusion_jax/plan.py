"""Plans a run on a TPU slice or GPUs that need not be here: memory, time, limits.

  python -m cxr_diffusion_jax.plan --config configs/elixr_c.py:base --topology v5e:4x4
  python -m cxr_diffusion_jax.plan --config configs/elixr_c.py:base dit_b \\
    --topology v5e-16,h200x8

Compiles the training step and the sampler for a TPU slice, which needs libtpu (the
extra `tpu`) but no TPU, or for simulated CPU devices. GPUs are planned by arithmetic,
and so are several sizes or topologies, which make a table.
"""

import os
import pathlib

from absl import flags

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import command, configs, flag_help

with flag_help.group("Plan"):
  _CONFIG = configs.define()
  _TOPOLOGY = flags.DEFINE_list(
    "topology",
    None,
    "A TPU slice (v5e:4x4, v5e-16, v6e-8, v5p:2x2x1), GPUs (h100x8, h200x8) or cpu:N;"
    " several for a table.",
    required=True,
  )
  _BATCH = flags.DEFINE_integer(
    "batch", 0, "Examples of a step; 0 for the config's.", lower_bound=0
  )
  _MESH = flags.DEFINE_list(
    "mesh", [], "Axes of the mesh, such as data=2,fsdp=8; the config's by default."
  )
  _IMAGES = flags.DEFINE_integer(
    "images", 0, "Examples to train on; 0 for the config's steps.", lower_bound=0
  )
with flag_help.group("Compiling"):
  _COMPILE = flags.DEFINE_bool("compile", True, "Compile; otherwise only arithmetic.")
  _SAMPLER = flags.DEFINE_bool("sampler", True, "Compile the sampler too.")
  _SAMPLE_BATCH = flags.DEFINE_integer(
    "sample_batch", 16, "Images that the sampler makes at once.", lower_bound=1
  )
  _CACHE = flags.DEFINE_string(
    "cache",
    "~/.cache/cxr_diffusion_jax/plans",
    "Folder of compiled figures; '' to compile again.",
  )


def main(sizes: list[str]) -> None:
  """Plans a config on a topology, or prints a table of several."""
  # The plan is made on CPUs, whatever else this machine has.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  from cxr_diffusion_jax.planning import planned, table, topologies

  topology, *others = (topologies.parse(name) for name in _TOPOLOGY.value)
  if sizes or others:
    if _MESH.value or _IMAGES.value:
      raise errors.InputError("--mesh or --images for a table", "one config and slice")
    of_sizes = configs.of_sizes(_CONFIG, sizes)
    lines = table.lines(
      of_sizes,
      [topology, *others],
      batch_size=_BATCH.value,
      progress=command.progress,
    )
    for line in lines:
      print(line, flush=True)
    return
  if topology.compiler == "cpu":
    count = f"--xla_force_host_platform_device_count={topology.num_chips}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
  cache = _CACHE.value and pathlib.Path(_CACHE.value).expanduser()
  plan = planned.Request(
    config=_CONFIG.value,
    topology=topology,
    batch_size=_BATCH.value,
    mesh=_mesh(_MESH.value),
    images=_IMAGES.value,
    cache=cache or None,
    sample_batch=_SAMPLE_BATCH.value if _SAMPLER.value else 0,
    progress=command.progress,
  )
  for line in planned.run(plan, compile_programs=_COMPILE.value):
    print(line, flush=True)


def _mesh(parts: list[str]) -> dict[str, int]:
  """Axis -> size of --mesh."""
  sizes = {}
  for part in parts:
    axis, _, size = part.partition("=")
    if axis not in ("data", "fsdp", "tensor") or not size.lstrip("-").isdigit():
      raise errors.InputError(
        f"--mesh {','.join(parts)}", "axes data, fsdp and tensor, such as data=2,fsdp=8"
      )
    sizes[axis] = int(size)
  return sizes


if __name__ == "__main__":
  command.run(main)
