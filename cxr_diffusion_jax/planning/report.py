"""The text of a plan: memory, work and time of a chip, by arithmetic and compiled."""

from collections.abc import Iterator, Sequence
import dataclasses

from cxr_diffusion_jax.planning import (
  arithmetic,
  compiling,
  mesh_choice,
  roofline,
  topologies,
  traced,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """One config on one topology.

  Attributes:
    compiled: None where the topology has no compiler here, or it was not asked for.
    images: examples to train on.
    sampling: one chip's part of drawing `sample_batch` images.
    sampler: the same program, compiled.
  """

  topology: topologies.Topology
  setting: arithmetic.Setting
  batch_size: int
  images: int
  step: arithmetic.Step
  compiled: compiling.Compiled | None = None
  sampler: compiling.Compiled | None = None
  sampling: traced.Estimate | None = None
  sample_batch: int = 0

  @property
  def factor(self) -> float:
    """By which the estimate of temporaries is multiplied, as the compiler found."""
    if self.compiled is None:
      return mesh_choice.MARGIN
    actual = self.compiled.temporaries
    if self.compiled.over:
      actual = self.topology.chip.memory + self.compiled.over
      actual -= self.step.state + self.step.batch
    return max(actual, 1.0) / max(self.step.temporaries, 1.0)

  @property
  def free(self) -> float:
    """Bytes of a chip that a step leaves free; negative where it does not fit."""
    memory = self.topology.chip.memory
    if self.compiled is None:
      step = self.step
      return memory - step.state - step.batch - self.factor * step.temporaries
    return -self.compiled.over or memory - self.compiled.peak

  @property
  def fits(self) -> bool:
    return self.free >= 0

  @property
  def traffic(self) -> float:
    """Bytes of memory traffic: the compiler's count, or the estimate."""
    counted = self.compiled.traffic if self.compiled else 0.0
    return counted or self.step.traffic

  @property
  def bounds(self) -> roofline.Roofline | None:
    """The roofline of a step."""
    sent = self.step.sent
    if self.compiled and self.compiled.collectives:
      sent = self.compiled.sent
    return roofline.of_step(
      self.topology.chip, flops=self.step.flops, traffic=self.traffic, sent=sent
    )


def lines(plan: Plan) -> Iterator[str]:
  """Yields the lines of a plan."""
  topology, setting, step = plan.topology, plan.setting, plan.step
  yield (
    f"{topology.name}: {topology.num_chips} x {_chip_text(topology.chip)}; mesh"
    f" {setting.axes_text}"
  )
  yield (
    f"{step.parameters / 1e6:.1f} M parameters, batch {plan.batch_size}"
    f" ({plan.batch_size // (setting.data * setting.fsdp)} a chip), remat"
    f" {'on' if setting.remat else 'off'}, accumulation {setting.accumulation}"
  )
  yield ""
  yield from _table(plan)
  yield ""
  yield _memory_text(plan)
  yield from _time(plan)
  if plan.compiled is not None:
    yield from _collectives(plan.compiled)
  if plan.sampling is not None:
    yield _sampler_text(plan, plan.sampling)


def figure(value: float) -> str:
  """Three digits of a number above 0.001, without an exponent."""
  return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _chip_text(chip: topologies.Chip) -> str:
  if not chip.tflops:
    return "a simulated device"
  return (
    f"{chip.name} ({chip.tflops:.0f} TFLOP/s in bfloat16, {chip.memory / 1e9:.1f} GB"
    f" at {chip.memory_rate / 1e9:.0f} GB/s)"
  )


def _table(plan: Plan) -> Iterator[str]:
  step, compiled = plan.step, plan.compiled
  if compiled is not None and compiled.over:
    compiled = None
  uncounted = " (not over tensor)" if plan.setting.tensor > 1 else ""
  rows: Sequence[tuple[str, float, float | None]] = (
    (
      "arguments (state, batch), GB",
      (step.state + step.batch) / 1e9,
      compiled and compiled.arguments / 1e9,
    ),
    (
      "temporaries, GB",
      step.temporaries / 1e9,
      compiled and compiled.temporaries / 1e9,
    ),
    ("peak, GB", step.memory / 1e9, compiled and compiled.peak / 1e9),
    ("products, TFLOP", step.flops / 1e12, None),
    ("memory traffic, GB", step.traffic / 1e9, compiled and compiled.traffic / 1e9),
    (
      f"sent to other chips{uncounted}, GB",
      step.sent / 1e9,
      compiled and compiled.sent / 1e9,
    ),
  )
  yield "| a chip, a training step | by arithmetic | compiled |"
  yield "|:--|--:|--:|"
  for name, estimate, exact in rows:
    shown = "" if exact is None else figure(exact)
    yield f"| {name} | {figure(estimate)} | {shown} |"


def _memory_text(plan: Plan) -> str:
  basis = "compiled" if plan.compiled else f"estimated, temporaries x {plan.factor:g}"
  if plan.topology.chip.memory == float("inf"):
    return f"memory: no limit is known ({basis})"
  state = "fits" if plan.fits else "does not fit"
  amount = f"{abs(plan.free) / 1e9:.2f} GB {'free' if plan.fits else 'too much'}"
  return f"memory: {state}, {amount} ({basis})"


def _time(plan: Plan) -> Iterator[str]:
  bounds = plan.bounds
  if bounds is None:
    return
  parts = {"products": bounds.products, "memory": bounds.memory, "links": bounds.links}
  listed = ", ".join(f"{name} {figure(1e3 * parts[name])}" for name in parts)
  yield (
    f"step: at least {figure(1e3 * bounds.seconds)} ms, limited by {bounds.limit}"
    f" ({listed} ms); at most {bounds.share_of_peak:.0%} of peak"
  )
  rate = plan.batch_size / bounds.seconds
  yield (
    f"at most {figure(rate)} images/s; {plan.images:,} images: at least"
    f" {figure(plan.images / rate / 3600)} h"
  )
  read = plan.step.batch * plan.setting.data * plan.setting.fsdp / bounds.seconds
  yield f"input: {figure(read / 1e6)} MB/s of batches"


def _collectives(compiled: compiling.Compiled) -> Iterator[str]:
  side = compiled.longest_square
  yield f"largest square in the last two axes of an array: {side:,} x {side:,}"
  for kind, traffic in compiled.collectives.items():
    yield f"{kind}: {traffic.count} a step, {traffic.sent / 1e9:.3g} GB sent by a chip"


def _sampler_text(plan: Plan, sampling: traced.Estimate) -> str:
  chip, compiled = plan.topology.chip, plan.sampler
  memory, basis = 4 * plan.step.parameters + sampling.temporaries, "estimated"
  if compiled is not None:
    memory, basis = compiled.over + chip.memory, "compiled"
    if not compiled.over:
      memory = compiled.peak
  fits = "" if memory <= chip.memory else ", which does not fit"
  text = (
    f"sampler, {plan.sample_batch} images: {figure(memory / 1e9)} GB{fits} ({basis})"
  )
  bounds = roofline.of_step(
    chip, flops=sampling.flops, traffic=sampling.traffic, sent=0
  )
  if bounds is None:
    return text
  return f"{text}, at least {figure(bounds.seconds)} s, limited by {bounds.limit}"
