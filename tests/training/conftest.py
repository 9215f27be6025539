"""The small run in this process: built, with its data, and trained in pieces."""

from collections.abc import Callable
import pathlib

import pytest

from cxr_diffusion_jax.preparation import dataset as dataset_lib
from cxr_diffusion_jax.training import compatibility, loop
from cxr_diffusion_jax.training import experiment as experiment_lib
from cxr_diffusion_jax.training import programs as programs_lib


class Writer:
  """A CLU metric writer that keeps what it is told: `scalars[step]`."""

  def __init__(self):
    self.scalars: dict[int, dict[str, float]] = {}

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    self.scalars.setdefault(step, {}).update(scalars)

  def losses(self) -> list[float]:
    """Of all steps told, in their order."""
    return [self.scalars[step]["train/loss"] for step in sorted(self.scalars)]

  def flush(self) -> None:
    pass


@pytest.fixture
def build(small) -> Callable[..., experiment_lib.Experiment]:
  """Builds the small experiment: `build(train__num_steps=2)`."""
  return lambda **changes: experiment_lib.build(small.config(**changes))


@pytest.fixture
def dataset(build) -> dataset_lib.Dataset:
  """The small dataset, prepared."""
  experiment = build()
  return dataset_lib.prepare(experiment.data, experiment.conditioner.needs)


@pytest.fixture(scope="session")
def programs() -> dict[str, programs_lib.Programs]:
  """Programs that tests have made so far, by what their config says of them."""
  return {}


@pytest.fixture
def train(
  build, dataset, programs, monkeypatch
) -> Callable[..., tuple[loop.Outcome, Writer]]:
  """Trains in a folder: `outcome, writer = train(folder, train__num_steps=2)`.

  `action` is called after each step. Equal programs are traced once.
  """
  make = programs_lib.make_programs

  def make_once(experiment, statistics):
    flat = compatibility.flatten(experiment.config)
    free = ("data.", "sample.", "train.", "conditioning.")
    key = repr([item for item in flat.items() if not item[0].startswith(free)])
    key += str(experiment.train.power_ema)
    if experiment.optimizer.schedule != "constant":
      key += str(experiment.train.num_steps)
    if key not in programs:
      programs[key] = make(experiment, statistics)
    return programs[key]

  monkeypatch.setattr(programs_lib, "make_programs", make_once)

  def run(folder: pathlib.Path, *, action=lambda step: None, **changes):
    writer = Writer()
    experiment = build(**changes)
    outcome = loop.train(experiment, dataset, folder, writer=writer, actions=[action])
    return outcome, writer

  return run
