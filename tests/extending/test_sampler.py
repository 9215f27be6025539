"""A new sampler is one class in one file; config and commands find it by its name."""

from absl import flags
import numpy as np
import pytest

from cxr_diffusion_jax.cli import evaluation_flags, sample_flags
from cxr_diffusion_jax.run import sample_section
from cxr_diffusion_jax.sampling import conditions
from cxr_diffusion_jax.sampling import sample as sampling
from cxr_diffusion_jax.sampling.request import Request


def test_sampler_is_one_class_in_one_file(install, run_of):
  install("diffusion/samplers/damped.py")
  changes = {"sampler": "damped", "sampler_options": "share=0.5"}
  run = run_of("findings", **{f"sample__{key}": text for key, text in changes.items()})
  builder = conditions.ConditionBuilder(run=run)
  nothing = builder.build(Request(unconditional=True), 1)
  damped = sampling.sample(run, nothing, num=2)
  assert damped.settings["sampler"] == "damped"
  whole = sampling.sample(run, nothing, num=2, changes={"sampler_options": "share=1"})
  euler = {"sampler": "euler", "sampler_options": ""}
  plain = sampling.sample(run, nothing, num=2, changes=euler)
  np.testing.assert_array_equal(whole.images, plain.images)
  assert np.abs(damped.images.astype(int) - plain.images).mean() > 5


@pytest.mark.parametrize("define", [sample_flags.settings, evaluation_flags.define])
def test_settings_are_flags_of_every_command(define):
  holders = define()
  try:
    assert {knob.name for knob in sample_section.knobs()} <= set(holders)
    assert sample_flags.changes(holders) == {}
    for flag, text in (("sampler", "damped"), ("steps", "3"), ("guidance", "2,1")):
      flags.FLAGS[flag].parse(text)
    assert sample_flags.changes(holders) == {
      "sampler": "damped",
      "num_steps": 3,
      "guidance": (2.0, 1.0),
    }
  finally:
    for name in holders:
      delattr(flags.FLAGS, name)
