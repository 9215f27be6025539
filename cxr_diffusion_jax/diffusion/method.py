"""What a sampler declares; each class of `diffusion.samplers` is one.

Every update is the step from one evaluation of the denoiser to the next.
"""

from typing import Any, ClassVar

from jax import Array

from cxr_diffusion_jax.diffusion.schedule import Schedule
from cxr_diffusion_jax.diffusion.times import Grid


class Method:
  """The equation of a sampler; the fields of a subclass are its options.

  Attributes:
    name: in a config and on the command line.
    stages: evaluations of the denoiser a step; the last step has one.
  """

  name: ClassVar[str]
  stages: ClassVar[int] = 1

  @property
  def stochastic(self) -> bool:
    """Whether it makes fresh noise."""
    return False

  def table(self, schedule: Schedule, grid: Grid) -> dict[str, Array]:
    """What `update` is given at each evaluation, every entry [num_evaluations].

    `t`, `alpha` and `sigma` are where the denoiser is evaluated, `next_t` is the time
    of the x that the update returns. By default both ends of each step.
    """
    del schedule
    return grid.steps()

  def memory(self, x: Array) -> Any:
    """What is remembered before the first evaluation: arrays like x [b ...]."""
    del x
    return ()

  def update(
    self,
    step: dict[str, Array],
    x: Array,
    x0: Array,
    noise: Array,
    fresh: Array | None,
    memory: Any,
  ) -> tuple[Array, Any]:
    """The next x [b ...] and what to remember.

    Args:
      step: a row of the table.
      x: [b ...] what the denoiser was given.
      x0: [b ...] the data that it sees in x.
      noise: [b ...] likewise.
      fresh: [b ...] standard normal noise of this step, if stochastic.
      memory: as the last update left it.
    """
    raise NotImplementedError


class EtaMethod(Method):
  """A method whose option `eta` is its share of fresh noise, at least 0."""

  eta: float

  @property
  def stochastic(self) -> bool:
    return self.eta > 0
