"""Two counts of FLOPs agree with closed forms, and with each other on real networks."""

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from configs import elixr_c
from cxr_diffusion_jax.extras import cost
from cxr_diffusion_jax.training import experiment as experiment_lib


def _trace(function, *shapes):
  return jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes))


def test_products_count_two_flops_per_pair():
  program = _trace(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (3, 4, 5), (3, 5, 7))
  assert cost.products(program) == 2 * 3 * 4 * 5 * 7
  assert cost.xla(program) == cost.products(program)


@pytest.mark.parametrize(
  "settings",
  [
    dict(window_strides=(1, 1), padding="SAME"),
    dict(window_strides=(2, 1), padding=((1, 1), (1, 1))),
    dict(window_strides=(1, 1), padding=((2, 0), (0, 3)), rhs_dilation=(2, 1)),
    dict(window_strides=(1, 1), padding=((2, 2), (2, 2)), lhs_dilation=(2, 3)),
    dict(window_strides=(1, 1), padding="VALID", feature_group_count=2),
  ],
)
def test_products_of_convolutions_equal_the_count_of_xla(settings):
  groups = settings.get("feature_group_count", 1)

  def convolve(image, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
      image, kernel, dimension_numbers=numbers, **settings
    )

  shapes = (2, 8, 7, 32), (3, 3, 32 // groups, 24)
  program = _trace(convolve, *shapes)
  assert cost.products(program) == cost.xla(program) > 0
  grad = jax.value_and_grad(lambda *a: convolve(*a).sum(), argnums=(0, 1))
  # Not `grad` alone: XLA leaves out the convolution, whose value no one asks for.
  program = _trace(grad, *shapes)
  assert cost.products(program) == pytest.approx(cost.xla(program), rel=0.02)


def test_products_omit_taps_outside_the_border():
  def convolve(image, kernel):
    return lax.conv(image, kernel, window_strides=(1, 1), padding="SAME")

  program = _trace(convolve, (1, 1, 4, 4), (1, 1, 3, 3))
  # Of 3 taps at each of 4 places of an axis, 2 lie outside.
  assert cost.products(program) == 2 * (4 * 3 - 2) ** 2


def test_products_count_every_round_of_a_loop():
  def power(x):
    def inner(x, _):
      return x @ x, None

    def outer(x, _):
      return lax.scan(inner, x, length=3)[0], None

    return lax.scan(outer, jax.jit(lambda x: x @ x)(x), length=5)[0]

  program = _trace(power, (8, 8))
  assert cost.products(program) == (5 * 3 + 1) * 2 * 8**3
  assert cost.xla(program) == pytest.approx(cost.products(program), rel=0.02)


def test_products_refuse_loops_of_unknown_length():
  program = _trace(lambda x: lax.while_loop(lambda x: x < 9, lambda x: x + 1, x), ())
  with pytest.raises(ValueError, match="no count of what 'while' calls"):
    cost.products(program)


def test_of_experiment_does_not_count_remat():
  config = elixr_c.get_config("dit_tiny")
  config.model.depth = 1
  results = []
  for remat in (False, True):
    config.model.remat = remat
    results.append(cost.of_experiment(experiment_lib.build(config)))
  assert results[0] == results[1]


@pytest.fixture(scope="module")
def costs():
  """Of both architectures' tiny sizes."""
  return {
    size: cost.of_experiment(experiment_lib.build(elixr_c.get_config(size)))
    for size in ("tiny", "dit_tiny")
  }


def test_cost_counts_agree(costs):
  for actual in costs.values():
    assert actual.forward == pytest.approx(actual.forward_xla, rel=0.05)
    assert actual.training == pytest.approx(actual.training_xla, rel=0.05)
    # A product has two in its gradient, but for those of what is given.
    assert 2.7 <= actual.training / actual.forward <= 3


def test_cost_of_tiny_architectures_is_equal(costs):
  """So that a comparison at equal steps is one at equal FLOPs."""
  assert costs["dit_tiny"].forward == pytest.approx(costs["tiny"].forward, rel=0.1)
  assert costs["dit_tiny"].training == pytest.approx(costs["tiny"].training, rel=0.1)


def test_cost_of_dit_equals_that_of_its_layers():
  """Of dit_tiny on the ELIXR-C map: 8x8 patches, 64 tokens and the null token."""
  config = elixr_c.get_config("dit_tiny")
  config.model.update(stem="linear", head="linear")
  costs = cost.of_experiment(experiment_lib.build(config))
  depth, width, patches, context = 4, 192, 64, 65
  patch = 2 * 2 * 16
  block = patches * (4 + 2 + 8) * width**2  # attention, the other's ends, MLP
  block += context * 2 * width**2 + 6 * width**2  # keys and values, modulation
  block += 2 * patches * (patches + context) * width  # scores and sums
  ends = patches * 2 * patch * width + 2 * width**2  # patches in and out, modulation
  ends += (256 + width) * width  # time
  ends += 64 * 1376 * width + width**2  # the map, its mean
  assert costs.forward == 2 * (depth * block + ends)


def test_cost_command_prints_a_line_per_size(run_main):
  arguments = ["--config=configs/elixr_c.py:dit_tiny", "--config.model.depth=1"]
  result = run_main("cost", *arguments)
  assert result.code == 0, result.err
  head, rule, line = result.out.splitlines()
  assert head.count("|") == rule.count("|") == line.count("|") == 11
  training, run = (
    float(line.split("|")[n].strip(" G").replace(",", "")) for n in (6, 10)
  )
  # 2,000 steps of 16 images.
  assert line.split("|")[9].strip() == "32,000"
  assert run == pytest.approx(training * 1e9 * 32_000, rel=0.05)
  assert line.startswith("| dit_tiny | 1.4 M | 0.1")
  result = run_main("cost", *arguments, "huge")
  assert "config size 'huge'; expected one of tiny, small" in result.complaint
