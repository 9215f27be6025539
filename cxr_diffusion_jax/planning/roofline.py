"""How fast a step can be on a chip, and what limits it.

step time >= max(FLOPs / rate, memory traffic / rate, bytes sent / rate of the links)

Williams et al. 2009, "Roofline". Real steps are slower; the bound tells what to change.
"""

import dataclasses

from cxr_diffusion_jax.planning import topologies


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
  """Seconds that a chip needs at least for each part of a step."""

  products: float
  memory: float
  links: float

  @property
  def seconds(self) -> float:
    """Of a step whose parts overlap completely."""
    return max(self.products, self.memory, self.links)

  @property
  def limit(self) -> str:
    """The part that takes longest."""
    parts = {
      "matrix products": self.products,
      "memory traffic": self.memory,
      "links between chips": self.links,
    }
    return max(parts, key=lambda name: parts[name])

  @property
  def share_of_peak(self) -> float:
    """Of the chip's peak FLOP/s, the share that this step can reach."""
    return self.products / self.seconds if self.seconds else 0.0


def of_step(
  chip: topologies.Chip, *, flops: float, traffic: float, sent: float
) -> Roofline | None:
  """Returns the bounds of one chip's work; None for a chip of unknown rates."""
  if not chip.tflops:
    return None
  return Roofline(
    products=flops / (chip.tflops * 1e12),
    memory=traffic / chip.memory_rate,
    links=sent / chip.link_rate,
  )
