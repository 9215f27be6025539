"""A new sampler is one class in one file; config and commands find it by its name."""

import sys

from absl import flags
import numpy as np
import pytest

from cxr_diffusion_jax.cli import evaluation_flags, sample_flags
from cxr_diffusion_jax.diffusion import samplers
from cxr_diffusion_jax.run import sample_section
from cxr_diffusion_jax.sampling import conditions
from cxr_diffusion_jax.sampling import sample as sampling
from cxr_diffusion_jax.sampling.request import Request

MODULE = """
import dataclasses
from typing import ClassVar

from cxr_diffusion_jax.diffusion.samplers import one_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brighter(one_step.Euler):
  \"\"\"Euler whose last step adds a constant.\"\"\"

  amount: float = 0.0
  name: ClassVar[str] = "brighter"

  def update(self, step, x, x0, noise, fresh, memory):
    x, memory = super().update(step, x, x0, noise, fresh, memory)
    return x + (step["next_t"] == 0) * self.amount, memory
"""


@pytest.fixture
def brighter(tmp_path, monkeypatch):
  """A folder with the module, as if it were in `diffusion/samplers`."""
  (tmp_path / "brighter.py").write_text(MODULE)
  monkeypatch.setattr(samplers, "__path__", [*samplers.__path__, str(tmp_path)])
  yield
  del sys.modules["cxr_diffusion_jax.diffusion.samplers.brighter"]


def test_a_sampler_is_one_class_in_one_file(brighter, run_of):
  changes = {"sampler": "brighter", "sampler_options": "amount=0.5"}
  run = run_of("findings", **{f"sample__{key}": text for key, text in changes.items()})
  builder = conditions.Desk(settings=run.data, dataset=run.dataset)
  nothing = builder.make(Request(unconditional=True), 1)
  ours = sampling.sample(run, nothing, num=2)
  assert ours.settings["sampler"] == "brighter"
  euler = {"sampler": "euler", "sampler_options": ""}
  plain = sampling.sample(run, nothing, num=2, changes=euler)
  assert np.mean(ours.images.astype(int) - plain.images) > 5


@pytest.mark.parametrize("define", [sample_flags.settings, evaluation_flags.define])
def test_every_command_takes_every_setting_as_a_flag(define):
  holders = define()
  try:
    assert {knob.name for knob in sample_section.knobs()} <= set(holders)
    assert sample_flags.changes(holders) == {}
    for flag, text in (("sampler", "brighter"), ("steps", "3"), ("guidance", "2,1")):
      flags.FLAGS[flag].parse(text)
    assert sample_flags.changes(holders) == {
      "sampler": "brighter",
      "num_steps": 3,
      "guidance": (2.0, 1.0),
    }
  finally:
    for name in holders:
      delattr(flags.FLAGS, name)
