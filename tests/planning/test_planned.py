"""A plan from the config to the nearest setting that fits, with wrong input."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.planning import (
  arithmetic,
  compiling,
  mesh_choice,
  planned,
  report,
  roofline,
  topologies,
)

GB = 1e9


def _step(**changes):
  values = dict(
    parameters=10**9,
    state=16 * GB,
    batch=0.0,
    temporaries=10 * GB,
    traffic=100 * GB,
    flops=1e13,
    sent=1 * GB,
    operations=1000,
  )
  return arithmetic.Step(**values | changes)


class FakePlanner:
  """State divides by fsdp; remat and accumulation halve the temporaries."""

  batch_size = 64
  can_remat = True

  def step(self, setting):
    chips = setting.data * setting.fsdp
    temporaries = 40 * GB / chips / setting.accumulation
    return _step(
      state=16 * GB / setting.fsdp,
      temporaries=temporaries / (2 if setting.remat else 1),
    )


OWN = arithmetic.Setting(data=8)


@pytest.mark.parametrize(
  ("memory", "flags"),
  [
    (25, ""),
    (10, "--config.parallel.data=2 --config.parallel.fsdp=4"),
    (5, "--config.parallel.data=1 --config.parallel.fsdp=8 --config.model.remat=True"),
    (
      3,
      "--config.parallel.data=1 --config.parallel.fsdp=8 --config.model.remat=True"
      " --config.optimizer.accumulation=4",
    ),
  ],
)
def test_nearest_setting_changes_as_little_as_fits(memory, flags):
  setting, _ = mesh_choice.nearest(FakePlanner(), OWN, memory * GB, factor=1)
  assert setting.flags_from(OWN) == flags


def test_nearest_setting_is_none_where_nothing_fits():
  assert mesh_choice.nearest(FakePlanner(), OWN, 1 * GB) is None
  v5e = topologies.parse("v5e:1x1")
  big = dataclasses.replace(OWN, data=1)
  assert mesh_choice.smallest_slice(FakePlanner(), big, v5e).name == "v5e:2x2"


def test_roofline_is_limited_by_the_slowest_part():
  chip = topologies.CHIPS["v5e"]
  bounds = roofline.of_step(chip, flops=197e12, traffic=1638e9, sent=100e9)
  assert (bounds.products, bounds.memory, bounds.links) == (1, 2, 0.5)
  assert bounds.limit == "memory traffic"
  assert bounds.share_of_peak == 0.5
  assert roofline.of_step(topologies.CHIPS["cpu"], flops=1, traffic=1, sent=1) is None


def test_report_says_what_limits_and_whether_it_fits():
  plan = report.Plan(
    topology=topologies.parse("v5e:4x4"),
    setting=arithmetic.Setting(data=16),
    batch_size=64,
    images=10**6,
    step=_step(),
    compiled=compiling.Compiled(seconds=9.0, over=2 * GB),
  )
  text = "\n".join(report.lines(plan))
  assert "memory: does not fit, 2.00 GB too much (compiled)" in text
  assert "at least 122 ms, limited by memory traffic" in text
  assert "1,000,000 images" in text
  assert "| sent to other chips, GB |" in text
  wide = dataclasses.replace(plan, setting=arithmetic.Setting(data=8, tensor=2))
  text = "\n".join(report.lines(wide))
  assert "| sent to other chips (not over tensor), GB |" in text
  fits = dataclasses.replace(
    plan, compiled=compiling.Compiled(seconds=9.0, peak=6 * GB, traffic=1 * GB)
  )
  assert fits.fits
  assert fits.bounds.limit == "matrix products"


def test_arithmetic_divides_the_state_by_fsdp(build):
  experiment = build(model__context_width=64)
  planner = arithmetic.Planner(experiment.config, accelerator=False)
  batch_size = planner.batch_size
  one, two, four = (
    planner.step(arithmetic.Setting(data=8 // n, fsdp=n)) for n in (1, 2, 4)
  )
  assert one.state == pytest.approx(4 * 4 * one.parameters, rel=1e-3)
  # What is small stays whole.
  split = 2 * (one.state - two.state)
  assert 0 < split < one.state
  assert four.state == pytest.approx(one.state - 3 / 4 * split, rel=0.05)
  assert one.flops == four.flops
  assert one.sent == pytest.approx(2 * 7 / 8 * 4 * one.parameters)
  # `tensor` splits attention and feed-forward layers, no convolutions.
  wide = planner.step(arithmetic.Setting(data=8, tensor=2))
  assert one.flops / 2 < wide.flops < one.flops
  assert one.sent / 2 < wide.sent < one.sent
  with pytest.raises(errors.InputError, match="expected a multiple of"):
    planner.step(arithmetic.Setting(data=3 * batch_size))


def test_each_part_of_a_batch_reduces_its_gradients():
  whole, parts = (
    arithmetic._sent(100.0, arithmetic.Setting(data=2, fsdp=2, accumulation=n))
    for n in (1, 4)
  )
  # As compiled: dit_tiny with data=4 sends 11.7 and 46.6 MB.
  assert parts == 4 * whole


def test_compiled_figures_are_of_one_chip():
  mesh = mesh_lib.make_mesh(data=2, fsdp=4)
  product = jax.jit(
    lambda a, b: jnp.sin(a @ b.T), out_shardings=sharding.replicated(mesh)
  )
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
  shape = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=place)
  compiled = compiling.compile_program(lambda: product.lower(shape, shape))
  assert compiled.arguments == 2 * 32 * 64 * 4 / 4
  assert compiled.peak >= compiled.arguments + 32 * 32 * 4
  assert compiled.flops >= 2 * 32 * 32 * 64 / 4
  assert compiled.sent == 2 * 3 / 4 * 32 * 32 * 4
  assert compiled.longest_square == 32
  assert compiled.over == 0


def test_choose_mesh_takes_the_least_fsdp_that_fits():
  assert mesh_choice.choose_mesh(FakePlanner(), OWN, 10 * GB).axes_text == (
    "data=2,fsdp=4"
  )
  assert mesh_choice.choose_mesh(FakePlanner(), OWN, 99 * GB) == OWN
  with pytest.raises(errors.InputError, match=r"no mesh of 8 .*model\.remat=True"):
    mesh_choice.choose_mesh(FakePlanner(), OWN, 5 * GB)


def test_settle_keeps_the_mesh_where_memory_is_unknown(build):
  for parallel in ({"data": -1}, {"data": -1, "mesh": "auto"}):
    config = {**build().config, "parallel": parallel}
    assert mesh_choice.settle(config) is config
  with pytest.raises(errors.InputError, match=r"config\.parallel\.mesh 'most'"):
    build(parallel__mesh="most")


def test_remedy_names_the_nearest_setting_or_refuses():
  def remedy(memory: float, compiled=None) -> str:
    topology = topologies.parse("v5e:2x4")
    plan = report.Plan(
      topology=dataclasses.replace(
        topology, chip=dataclasses.replace(topology.chip, memory=memory)
      ),
      setting=OWN,
      batch_size=FakePlanner.batch_size,
      images=1,
      step=FakePlanner().step(OWN),
      compiled=compiled,
    )
    return planned.remedy(FakePlanner(), plan)

  text = remedy(10 * GB)
  assert text.startswith("nearest setting that fits, about 9.8 GB by arithmetic: ")
  assert text.endswith("--config.parallel.data=2 --config.parallel.fsdp=4")
  # By arithmetic it fits, but the compiler refused it.
  over = compiling.Compiled(seconds=1, over=3 * GB)
  assert remedy(25 * GB, over).endswith("data=4 --config.parallel.fsdp=2")
  with pytest.raises(errors.InputError, match="fits no mesh of v5e:2x4"):
    remedy(1)


def test_memory_excess_is_read_from_the_compiler():
  message = "Used 25.13G of 15.75G hbm. Exceeded hbm capacity by 9.50G."
  assert compiling.memory_excess(message) == 9.5 * 2**30
  message = "required for HLO temporaries (20.5G) exceeds available HBM (512M)."
  assert compiling.memory_excess(message) == 20 * 2**30
  assert compiling.memory_excess("INTERNAL: another error") is None


def test_cache_returns_what_was_compiled(tmp_path):
  figures = compiling.Compiled(seconds=1.0, peak=2.0)
  compiling.write(tmp_path / "plans" / "a.json", figures)
  assert compiling.read(tmp_path / "plans" / "a.json") == figures


@pytest.mark.parametrize(
  ("arguments", "complaint"),
  [
    (["--topology=v5e:3x3"], "topology 'v5e:3x3'; expected a TPU slice"),
    (["--topology=h100x8", "--mesh=data=3"], "make 3 of 8 devices"),
    (["--topology=h100x8", "--mesh=depth=3"], "--mesh depth=3; expected axes"),
    (["--topology=h100x8", "--batch=12"], "a batch of 12 on h100x8; expected a mul"),
  ],
)
def test_plan_command_refuses_wrong_input(arguments, complaint, run_main):
  result = run_main("plan", "--config=configs/elixr_c.py:dit_tiny", *arguments)
  assert result.code == 2
  assert complaint in result.complaint


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="has libtpu")
def test_plan_command_names_the_missing_compiler(run_main):
  result = run_main(
    "plan", "--config=configs/elixr_c.py:dit_tiny", "--topology=v5e:2x2"
  )
  assert result.code == 2
  assert "pip install 'cxr-diffusion-jax[tpu]'" in result.complaint


def test_plan_command_prints_a_plan_of_gpus(run_main):
  result = run_main(
    "plan",
    "--config=configs/elixr_c.py:dit_tiny",
    "--config.model.depth=1",
    "--topology=h200x8",
    "--images=1000000",
  )
  assert result.code == 0, result.err
  assert "h200x8: 8 x h200 (989 TFLOP/s" in result.out
  assert "memory: fits" in result.out
  assert "1,000,000 images: at least" in result.out
  assert "sampler, 16 images: " in result.out
