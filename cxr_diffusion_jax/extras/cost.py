"""A denoiser's parameters and FLOPs, counted in two independent ways.

products   the matrix products and convolutions of the traced program, in closed form:
           2 b m n k, and 2 b o i for each place and each tap inside the image
xla        XLA's own analysis of the lowered program, with elementwise operations;
           it counts the body of a loop once, so the other rounds are added here

A multiplication and an addition are two FLOPs. Nothing is compiled or allocated, so
any size takes seconds on any machine.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import math
from typing import cast

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.models import convolution
from cxr_diffusion_jax.run import model_section
from cxr_diffusion_jax.training import experiment as experiment_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """The cost of one example in FLOPs, from products and by XLA.

  Attributes:
    images: examples of the whole run, steps times batch.
  """

  parameters: int
  images: int
  forward: float  # of a prediction
  forward_xla: float
  training: float  # of a loss and its gradient
  training_xla: float


def of_experiment(experiment: experiment_lib.Experiment) -> Cost:
  """Counts an experiment's denoiser in float32 and without `remat`.

  Training includes what attention recomputes for its gradient (on CPUs, from 256
  queries on).
  """
  recipe, streams = experiment.recipe, experiment.recipe.conditioner.streams
  section = {**experiment.config["model"], "dtype": "float32"}
  if "remat" in section:
    section["remat"] = False
  model, init_fn = model_section.build(
    # Unrolled, on any machine.
    section,
    recipe.latent_shape,
    streams,
    platform="cpu",
  )
  params = jax.eval_shape(init_fn, jax.random.key(0))
  inputs = jax.eval_shape(
    lambda: model_section.empty_inputs(recipe.latent_shape, streams)
  )

  def predict(params, x_t, t, context):
    return model.apply({"params": params}, x_t, t, context)

  def loss(*arguments):
    return jnp.mean(predict(*arguments) ** 2)

  with convolution.direct_only():
    forward = jax.make_jaxpr(predict)(params, *inputs)
    training = jax.make_jaxpr(jax.value_and_grad(loss))(params, *inputs)
  return Cost(
    parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
    images=experiment.train.num_steps * experiment.train.batch_size,
    forward=products(forward),
    forward_xla=xla(forward),
    training=products(training),
    training_xla=xla(training),
  )


def table(costs: Iterable[tuple[str, Cost]]) -> Iterator[str]:
  """Yields the lines of a Markdown table, each as soon as its cost is known."""
  yield (
    "| size | parameters | forward | by XLA | off | training | by XLA | off | images"
    " | whole run |"
  )
  yield "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
  for name, cost in costs:
    forward, training = (
      f"{_digits(ours)} G | {_digits(theirs)} G | {ours / theirs - 1:+.1%}"
      for ours, theirs in (
        (cost.forward, cost.forward_xla),
        (cost.training, cost.training_xla),
      )
    )
    run = f"{cost.images:,} | {cost.training * cost.images:.2g}"
    yield f"| {name} | {cost.parameters / 1e6:.1f} M | {forward} | {training} | {run} |"


def _digits(flops: float) -> str:
  """10^9 FLOPs, to three digits."""
  return f"{float(f'{flops / 1e9:.3g}'):,.10g}"


def products(program: core.ClosedJaxpr) -> float:
  """FLOPs of a traced program's matrix products and convolutions."""
  total = 0.0
  for equation in program.jaxpr.eqns:
    total += product(equation)
    for rounds, body in _bodies(equation):
      total += rounds * products(body)
  return total


def product(equation: core.JaxprEqn) -> float:
  """FLOPs of one matrix product or convolution; 0 for any other equation."""
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, _, out = _shapes(equation)
    return 2.0 * math.prod(left[axis] for axis in contracted) * math.prod(out)
  if equation.primitive.name == "conv_general_dilated":
    return _convolution(equation)
  return 0.0


def xla(program: core.ClosedJaxpr) -> float:
  """FLOPs of a traced program from XLA's analysis, with all rounds of its loops."""
  return _lowered(program) + sum(
    rounds * xla(body) - _lowered(body) for rounds, body in _loops(program)
  )


def _lowered(program: core.ClosedJaxpr) -> float:
  lowered = jax.jit(core.jaxpr_as_fun(program)).lower(*program.in_avals)
  # A program without arithmetic has no such entry.
  return (lowered.cost_analysis() or {}).get("flops", 0.0)


def _loops(program: core.ClosedJaxpr) -> Iterator[tuple[int, core.ClosedJaxpr]]:
  """Rounds and body of each outermost loop."""
  for equation in program.jaxpr.eqns:
    for rounds, body in _bodies(equation):
      if equation.primitive.name == "scan":
        yield rounds, body
      else:
        yield from _loops(body)


def _bodies(equation: core.JaxprEqn) -> Iterator[tuple[int, core.ClosedJaxpr]]:
  """The programs that an equation calls, and how often.

  Raises:
    ValueError: a loop or a branch without a known number of rounds.
  """
  if equation.primitive.name in ("cond", "while"):
    raise ValueError(f"no count of what {equation.primitive.name!r} calls")
  rounds = equation.params.get("length", 1)
  for value in equation.params.values():
    if isinstance(value, core.ClosedJaxpr):
      yield rounds, value
    elif isinstance(value, core.Jaxpr):
      yield rounds, core.ClosedJaxpr(value, ())


def _shapes(equation: core.JaxprEqn) -> list[tuple[int, ...]]:
  variables = (*equation.invars, *equation.outvars)
  return [cast(jax.ShapeDtypeStruct, variable.aval).shape for variable in variables]


def _convolution(equation: core.JaxprEqn) -> float:
  """2 x batch x output channels x input channels of a group x taps inside the image."""
  params = equation.params
  numbers = params["dimension_numbers"]
  image, kernel, out = _shapes(equation)
  total = 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
  total *= kernel[numbers.rhs_spec[1]]
  for axis, stride in enumerate(params["window_strides"]):
    pixels = image[numbers.lhs_spec[2 + axis]]
    taps = np.arange(kernel[numbers.rhs_spec[2 + axis]])
    places = np.arange(out[numbers.out_spec[2 + axis]])[:, None]
    # On one axis: pairs of an output place and a kernel tap that hit a pixel. Pixels
    # are `apart` cells from each other.
    apart, before = params["lhs_dilation"][axis], params["padding"][axis][0]
    cells = places * stride - before + taps * params["rhs_dilation"][axis]
    inside = (cells >= 0) & (cells <= (pixels - 1) * apart) & (cells % apart == 0)
    total *= int(inside.sum())
  return total
