"""Makes a plan: arithmetic first, then compilation, then the nearest setting that fits.

Request --Planner--> Step --train_step, sampler--> Compiled --> Plan --> lines
"""

from collections.abc import Callable, Generator, Iterator
import contextlib
import dataclasses
import functools
import pathlib
import threading
import time

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.planning import (
  arithmetic,
  compiling,
  mesh_choice,
  report,
  topologies,
)
from cxr_diffusion_jax.run import recipe as recipe_lib
from cxr_diffusion_jax.training import experiment as experiment_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What to plan.

  Attributes:
    batch_size: examples of a step; 0 for the config's.
    mesh: sizes of axes; {} for the config's.
    images: examples to train on; 0 for the config's steps.
    cache: folder of compiled figures; None for none.
    sample_batch: images that the sampler makes at once; 0 not to compile it.
  """

  config: recipe_lib.Config
  topology: topologies.Topology
  batch_size: int = 0
  mesh: dict[str, int] = dataclasses.field(default_factory=dict)
  images: int = 0
  cache: pathlib.Path | None = None
  sample_batch: int = 16
  progress: types.Progress = types.no_progress

  @property
  def plain(self) -> artifacts.Json:
    """The config as plain values, with the changes of this request.

    Raises:
      errors.InputError: a mesh that the topology does not divide by.
    """
    plain = recipe_lib.read_config(self.config)
    own = plain["parallel"]
    axes = {k: v for k, v in own.items() if k in mesh_lib.AXES}
    if self.mesh:
      axes = {"data": 1 if -1 in self.mesh.values() else -1, **self.mesh}
    sizes = mesh_lib.axis_sizes(self.topology.num_chips, **axes)
    batch_size = self.batch_size or plain["train"]["batch_size"]
    accumulation = plain["optimizer"].get("accumulation", 1)
    parts = sizes["data"] * sizes["fsdp"] * accumulation
    if batch_size % parts:
      above = -(-batch_size // parts) * parts
      raise errors.InputError(
        f"a batch of {batch_size} on {self.topology.name}",
        f"a multiple of {parts}: data x fsdp x accumulation",
        f"--batch {above}",
      )
    return {
      **plain,
      "parallel": {**sizes, "mesh": "axes" if self.mesh else own.get("mesh", "axes")},
      "train": {**plain["train"], "batch_size": batch_size},
    }


def run(request: Request, *, compile_programs: bool = True) -> Iterator[str]:
  """Yields the lines of a plan, each as soon as it is known.

  Raises:
    errors.InputError: a batch or a mesh that does not divide, a compiler that is
      missing, or a config that fits nowhere.
  """
  topology, plain = request.topology, request.plain
  compile_programs = compile_programs and bool(topology.compiler)
  # Fail on a missing compiler before the arithmetic, which takes seconds.
  devices = compiling.devices(topology) if compile_programs else None
  planner = arithmetic.Planner(plain, accelerator=topology.compiler != "cpu")
  setting = planner.setting(plain["parallel"])
  if plain["parallel"]["mesh"] == "auto":
    meshes = mesh_choice.meshes(setting)
    chosen = mesh_choice.first_that_fits(planner, meshes, topology.chip.memory)
    setting = chosen[0] if chosen else setting
  plan = report.Plan(
    topology=topology,
    setting=setting,
    batch_size=planner.batch_size,
    images=request.images or planner.batch_size * plain["train"]["num_steps"],
    step=planner.step(setting),
  )
  if request.sample_batch:
    sampling = planner.sampling(setting, request.sample_batch)
    plan = dataclasses.replace(
      plan, sampling=sampling, sample_batch=request.sample_batch
    )
  if devices is not None:
    sizes = {axis: getattr(setting, axis) for axis in mesh_lib.AXES}
    experiment = experiment_lib.build({**plain, "parallel": sizes}, devices)
    seconds = compiling.expected_seconds(topology, plan.step.operations)
    train_step = functools.partial(compiling.train_step, experiment)
    compiled = yield from _figures(request, "train", experiment, seconds, train_step)
    plan = dataclasses.replace(plan, compiled=compiled)
    if request.sample_batch:
      kind = f"sample{request.sample_batch}"
      sampler = functools.partial(compiling.sampler, experiment, request.sample_batch)
      # A prediction and the sampler's step around it, against a gradient as well.
      compiled = yield from _figures(request, kind, experiment, seconds / 3, sampler)
      plan = dataclasses.replace(plan, sampler=compiled)
  yield from report.lines(plan)
  if not plan.fits:
    yield remedy(planner, plan)


def _figures(
  request: Request,
  kind: str,
  experiment: experiment_lib.Experiment,
  seconds: float,
  make: Callable[[], compiling.Compiled],
) -> Generator[str, None, compiling.Compiled]:
  """Yields lines on what happens; returns figures, from the cache if they are there."""
  name = "the training step" if kind == "train" else "the sampler"
  path = None
  if request.cache is not None:
    path = compiling.cache_file(request.cache, kind, request.topology, experiment)
    if path.exists():
      yield f"{name}: compiled figures of {path}"
      return compiling.read(path)
  yield f"compiling {name}: about {max(seconds, 1):.0f} s on one core"
  with _ticking(request.progress, f"seconds of compiling {name}", round(seconds)):
    compiled = make()
  yield f"compiled {name} in {compiled.seconds:.0f} s"
  if path is not None:
    compiling.write(path, compiled)
  return compiled


@contextlib.contextmanager
def _ticking(progress: types.Progress, label: str, expected: int) -> Iterator[None]:
  """Reports the seconds that pass inside the context."""
  done, start = threading.Event(), time.monotonic()

  def tick() -> None:
    while not done.wait(1.0):
      elapsed = round(time.monotonic() - start)
      progress(label, elapsed, max(expected, elapsed + 1))

  thread = threading.Thread(target=tick, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()


def remedy(planner: arithmetic.Planner, plan: report.Plan) -> str:
  """The nearest setting that fits, or the smallest slice that would."""
  memory = plan.topology.chip.memory
  chosen = mesh_choice.nearest(planner, plan.setting, memory, factor=plan.factor)
  if chosen is not None:
    setting, step = chosen
    peak = step.state + step.batch + plan.factor * step.temporaries
    return (
      f"nearest setting that fits, about {peak / 1e9:.1f} GB by arithmetic:"
      f" {setting.flags_from(plan.setting)}"
    )
  larger = mesh_choice.smallest_slice(planner, plan.setting, plan.topology)
  raise errors.InputError(
    f"batch {plan.batch_size} fits no mesh of {plan.topology.name}, with remat and"
    " accumulation either",
    "a larger slice or a smaller --batch",
    f"--topology {larger.name}" if larger else "a chip with more memory",
  )
