"""The TPU compiler itself, on a machine without a TPU: minutes, by hand.

pip install libtpu; python -m pytest tests/planning/test_tpu.py
"""

import importlib.util

import pytest

from configs import elixr_c
from cxr_diffusion_jax.planning import arithmetic, compiling, topologies
from cxr_diffusion_jax.training import experiment as experiment_lib

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@pytest.fixture(autouse=True)
def no_metadata(monkeypatch):
  """Without this, libtpu asks a cloud's server for the slice that it is on."""
  monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")


def _compile(config, topology, setting):
  planner = arithmetic.Planner(config, accelerator=True)
  devices = compiling.devices(topologies.parse(topology))
  experiment = arithmetic.build(planner.config, setting, planner.batch_size, devices)
  return compiling.train_step(experiment), planner.step(setting)


@pytest.mark.parametrize(("size", "bound"), [("tiny", 150e6), ("dit_tiny", 150e6)])
def test_tiny_networks_compile_for_a_slice_within_memory(size, bound):
  setting = arithmetic.Setting(data=4)
  compiled, step = _compile(elixr_c.get_config(size), "v5e:2x2", setting)
  print(f"{size}: compiled {compiled}, by arithmetic {step}")
  assert compiled.over == 0
  assert compiled.peak < bound
  # Arrays of small sides are padded to whole tiles.
  assert 1 <= compiled.arguments / (step.state + step.batch) < 1.5
  assert 1 / 3 < compiled.temporaries / step.temporaries < 3
  assert 1 / 3 < compiled.sent / step.sent < 3


def test_fsdp_divides_arguments():
  """8 chips; what is too small to split stays whole."""
  config = elixr_c.get_config("dit_tiny")
  config.model.update(depth=1, stem="linear", head="linear", width=384)
  sizes = {}
  for fsdp in (1, 2, 4, 8):
    setting = arithmetic.Setting(data=8 // fsdp, fsdp=fsdp)
    compiled, step = _compile(config, "v5e:2x4", setting)
    print(f"fsdp={fsdp}: {compiled}, by arithmetic {step}")
    assert compiled.arguments == pytest.approx(step.state + step.batch, rel=0.1)
    sizes[fsdp] = compiled.arguments - step.batch
  for fsdp in (2, 4, 8):
    assert sizes[fsdp] == pytest.approx(sizes[1] / fsdp, rel=0.2)


def test_a_program_too_large_is_reported():
  config = elixr_c.get_config("dit_tiny")
  config.train.batch_size = 2**17
  config.model.update(depth=1, dtype="float32")
  experiment = experiment_lib.build(
    config, compiling.devices(topologies.parse("v5e:1x1"))
  )
  compiled = compiling.train_step(experiment)
  assert compiled.over > 0
