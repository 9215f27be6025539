"""Sizes of a config against topologies, by arithmetic, as a Markdown table.

configs x topologies --nearest setting that fits--> memory, least time, what limits it
"""

from collections.abc import Iterator, Mapping, Sequence

from cxr_diffusion_jax import types
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.planning import (
  arithmetic,
  mesh_choice,
  report,
  topologies,
)
from cxr_diffusion_jax.run import recipe as recipe_lib

_HEAD = (
  *("size", "topology", "batch", "mesh", "changed", "state, GB", "peak, GB"),
  *("of, GB", "TFLOP", "least ms", "limit", "images/s", "hours"),
)


def lines(
  configs: Mapping[str, recipe_lib.Config],
  slices: Sequence[topologies.Topology],
  *,
  batch_size: int = 0,
  progress: types.Progress = types.no_progress,
) -> Iterator[str]:
  """Yields the lines of a table, each as soon as it is known.

  Each row has the config's own batch, or `batch_size`, the nearest setting that fits,
  and the time of the config's steps. `peak` has the margin of `mesh_choice`.
  """
  yield f"| {' | '.join(_HEAD)} |"
  yield "|:--|:--|--:|:--|:--|--:|--:|--:|--:|--:|:--|--:|--:|"
  done, total = 0, len(configs) * len(slices)
  for size, config in configs.items():
    planner = arithmetic.Planner(config, accelerator=True, batch_size=batch_size)
    for topology in slices:
      progress(f"plans, {size} on {topology.name}", done, total)
      yield f"| {' | '.join((size, topology.name, *_row(planner, topology)))} |"
      done += 1
  progress("plans", done, total)


def _row(planner: arithmetic.Planner, topology: topologies.Topology) -> Sequence[str]:
  batch_size, chip = planner.batch_size, topology.chip
  own = planner.setting(mesh_lib.axis_sizes(topology.num_chips))
  if batch_size % topology.num_chips:
    return (str(batch_size), "does not divide", *("" for _ in _HEAD[4:]))
  chosen = mesh_choice.nearest(planner, own, chip.memory)
  if chosen is None:
    larger = mesh_choice.smallest_slice(planner, own, topology)
    text = f"fits {larger.name}" if larger else "fits nowhere"
    return (str(batch_size), text, *("" for _ in _HEAD[4:]))
  setting, step = chosen
  images = batch_size * planner.config["train"]["num_steps"]
  plan = report.Plan(
    topology=topology, setting=setting, batch_size=batch_size, images=images, step=step
  )
  changed = [] if setting.remat == own.remat else ["remat"]
  if setting.accumulation != own.accumulation:
    changed.append(f"accumulation {setting.accumulation}")
  bounds = plan.bounds
  if bounds is None:
    raise ValueError(f"no rates of {topology.name} are known")
  rate = batch_size / bounds.seconds
  return (
    str(batch_size),
    setting.axes_text,
    ", ".join(changed),
    f"{step.state / 1e9:.2f}",
    f"{(chip.memory - plan.free) / 1e9:.2f}",
    f"{chip.memory / 1e9:.1f}",
    report.figure(step.flops / 1e12),
    report.figure(1e3 * bounds.seconds),
    f"{bounds.limit}, {bounds.share_of_peak:.0%} of peak",
    report.figure(rate),
    f"{images / rate / 3600:.1f}",
  )
