"""Topologies are known by the names that the TPU compiler and clouds use."""

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.planning import topologies


@pytest.mark.parametrize(
  ("name", "chip", "num_chips", "own_name"),
  [
    ("v5e:4x4", "v5e", 16, "v5e:4x4"),
    ("v5e-16", "v5e", 16, "v5e:4x4"),
    ("v6e-8", "v6e", 8, "v6e:2x4"),
    # Types of v5p count cores, two a chip.
    ("v5p-8", "v5p", 4, "v5p:2x2x1"),
    ("h200x8", "h200", 8, "h200x8"),
    ("cpu:3", "cpu", 3, "cpu:3"),
  ],
)
def test_parse_knows_slices_gpus_and_simulated_devices(name, chip, num_chips, own_name):
  topology = topologies.parse(name)
  assert topology.chip.name == chip
  assert topology.num_chips == num_chips
  assert topology.name == own_name


@pytest.mark.parametrize(
  ("name", "nearest"), [("v5e:4x3", "v5e:4x4"), ("h100-8", "h100x8"), ("cpu8", "cpu:8")]
)
def test_parse_refuses_unknown_names_with_the_nearest(name, nearest):
  with pytest.raises(errors.InputError, match="did you mean .*" + nearest):
    topologies.parse(name)


def test_every_accelerator_has_rates_and_a_source():
  for name in topologies.names():
    chip = topologies.parse(name).chip
    assert min(chip.tflops, chip.memory, chip.memory_rate, chip.link_rate) > 0
    assert chip.source.startswith("https://")
    assert topologies.chip_of(chip.device_kind) == chip


def test_links_of_tpus_have_half_of_the_published_two_way_rate():
  published = {"v5e": 400e9, "v5p": 1200e9, "v6e": 800e9}
  for name, rate in published.items():
    assert topologies.CHIPS[name].link_rate == rate / 2


def test_larger_slices_are_in_order():
  sizes = [t.num_chips for t in topologies.larger(topologies.parse("v5e-16"))]
  assert sizes == [32, 64, 128, 256]
  assert topologies.larger(topologies.parse("h100x8")) == ()
