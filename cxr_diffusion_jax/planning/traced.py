"""Memory, traffic and FLOPs of a traced program, estimated without a compiler.

jaxpr --flatten--> operations --which values are stored--> live bytes, traffic, FLOPs

The model of a compiler: elementwise operations are fused into what reads them, so that
their values are never stored, unless a matrix product reads them or an expensive one
(exp, random bits) is read twice. A stored value is written once, read by each of its
readers, and lives until the last one. Bodies of loops count once a round, and their
memory once; small ones run on the chip, without traffic but for operands and results.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import cast

import jax
from jax.extend import core
import numpy as np

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.extras import cost

# A loop with less memory than this runs on the chip: attention in blocks, which
# accelerators compute in one kernel.
ON_CHIP = 16e6

_EXPENSIVE = {"erf_inv", "random_bits", "threefry2x32"}
# New names for what is stored already.
_VIEWS = {"bitcast_convert_type", "copy", "expand_dims", "reshape", "squeeze"}
_FUSED = _EXPENSIVE | {
  *("cos", "erf", "exp", "log", "log1p", "logistic", "pow", "sin", "tanh"),
  *("abs", "add", "add_any", "and", "bitcast_convert_type", "broadcast_in_dim"),
  *("clamp", "convert_element_type", "copy", "div", "eq", "expand_dims", "floor"),
  *("ge", "gt", "integer_pow", "iota", "is_finite", "le", "lt", "max", "min", "mul"),
  *("ne", "neg", "not", "or", "random_fold_in", "random_split", "random_unwrap"),
  *("random_wrap", "rem", "reshape", "round", "rsqrt", "select_n", "shift_left"),
  *("shift_right_arithmetic", "shift_right_logical", "sign", "slice", "sqrt"),
  *("square", "squeeze", "stop_gradient", "sub", "transpose", "xor"),
  *("concatenate", "name", "optimization_barrier", "pad", "sharding_constraint"),
  *("split",),
}
_PRODUCTS = ("dot_general", "conv_general_dilated")

# Operations that compute their elementwise inputs on the fly.
_ABSORBING = {
  *("reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce"),
  *("argmax", "argmin", "reduce_precision", "dynamic_slice", *_PRODUCTS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """What one chip does in one call of a program.

  Attributes:
    temporaries: most bytes that are live at once, besides arguments.
    traffic: bytes read from and written to memory.
    flops: of matrix products and convolutions.
    operations: number of traced operations, those of a loop's body once.
  """

  temporaries: float
  traffic: float
  flops: float
  operations: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Operation:
  name: str
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  flops: float = 0.0
  inner: float = 0.0  # bytes that are live inside
  inner_traffic: float = 0.0
  operations: int = 1

  @property
  def fused(self) -> bool:
    return self.name in _FUSED


def estimate(
  program: core.ClosedJaxpr,
  *,
  donated: bool = False,
  share: Callable[[tuple[int, ...]], float] = lambda shape: 1.0,
  part: Callable[[core.JaxprEqn], float] = lambda product: 1.0,
) -> Estimate:
  """Estimates a program.

  Args:
    donated: whether outputs take the memory of arguments.
    share: shape of a value -> the part of it that a chip holds.
    part: product -> the part of it that a chip computes.
  """
  flat = _Flat(share, part)
  arguments = [flat.new(v) for v in (*program.jaxpr.constvars, *program.jaxpr.invars)]
  outputs = flat.add(program.jaxpr, arguments)
  return _analyse(flat, set(arguments), outputs, donated)


class _Flat:
  """The operations of a program, with those of its calls, over numbered values."""

  def __init__(
    self,
    share: Callable[[tuple[int, ...]], float],
    part: Callable[[core.JaxprEqn], float],
  ):
    self.operations: list[_Operation] = []
    self.sizes: list[float] = []
    self.share, self.part = share, part

  def new(self, variable: core.Var) -> int:
    self.sizes.append(_size(variable, self.share))
    return len(self.sizes) - 1

  def add(self, jaxpr: core.Jaxpr, arguments: Sequence[int | None]) -> list[int | None]:
    """Appends a program's operations; returns its outputs' numbers."""
    names = (*jaxpr.constvars, *jaxpr.invars)
    env: dict[core.Var, int | None] = dict(zip(names, arguments, strict=True))

    def number(atom) -> int | None:
      return None if isinstance(atom, core.Literal) else env[atom]

    for equation in jaxpr.eqns:
      inputs = [number(atom) for atom in equation.invars]
      body = _inlined(equation)
      if body is not None:
        consts = [self.new(v) for v in body.jaxpr.constvars]
        results = self.add(body.jaxpr, [*consts, *inputs])
        env |= dict(zip(equation.outvars, results, strict=True))
        continue
      results = [self.new(v) for v in equation.outvars]
      env |= dict(zip(equation.outvars, results, strict=True))
      self.operations.append(
        _Operation(
          name=equation.primitive.name,
          inputs=tuple(i for i in inputs if i is not None),
          outputs=tuple(results),
          **_inside(equation, self.share, self.part),
        )
      )
    return [number(atom) for atom in jaxpr.outvars]


def _inlined(equation: core.JaxprEqn) -> core.ClosedJaxpr | None:
  """The program that an equation calls once, with the equation's arguments."""
  if equation.primitive.name in ("scan", "while", "cond", "pallas_call"):
    return None
  bodies = [
    value if isinstance(value, core.ClosedJaxpr) else core.ClosedJaxpr(value, ())
    for value in equation.params.values()
    if isinstance(value, core.ClosedJaxpr | core.Jaxpr)
  ]
  fits = [b for b in bodies if len(b.jaxpr.invars) == len(equation.invars)]
  return fits[0] if fits else None


def _inside(
  equation: core.JaxprEqn,
  share: Callable[[tuple[int, ...]], float],
  part: Callable[[core.JaxprEqn], float],
) -> artifacts.Json:
  """FLOPs of an equation, and memory and traffic of the programs that it contains."""
  params = equation.params
  match equation.primitive.name:
    case "dot_general" | "conv_general_dilated":
      return {"flops": part(equation) * cost.product(equation)}
    case "scan":
      rounds, bodies = params["length"], [params["jaxpr"]]
    case "while":
      # Of an unknown number of rounds: one.
      rounds, bodies = 1, [params["body_jaxpr"]]
    case "cond":
      rounds, bodies = 1, list(params["branches"])
    case "pallas_call" if params["cost_estimate"] is not None:
      # Of the formula; the kernel pads and computes some products again.
      return {"flops": part(equation) * params["cost_estimate"].flops}
    case "pallas_call":
      rounds = math.prod(params["grid_mapping"].grid)
      body = estimate(core.ClosedJaxpr(params["jaxpr"], ()))
      # Its temporaries are on the chip.
      return {"flops": part(equation) * rounds * body.flops}
    case _:
      return {}
  inner = [estimate(body, share=share, part=part) for body in bodies]
  temporaries = max(each.temporaries for each in inner)
  on_chip = equation.primitive.name == "scan" and temporaries < ON_CHIP
  return {
    "flops": rounds * max(each.flops for each in inner),
    "inner": temporaries,
    "inner_traffic": 0.0 if on_chip else rounds * max(each.traffic for each in inner),
    "operations": sum(each.operations for each in inner),
  }


def _analyse(
  flat: _Flat, arguments: set[int], outputs: Sequence[int | None], donated: bool
) -> Estimate:
  roots = _roots(flat, arguments, outputs)
  stored = {v for v, sources in roots.items() if sources == {v}} - arguments
  last: dict[int, int] = {}
  steps = [op for op in flat.operations if not op.fused or stored & {*op.outputs}]
  for number, op in enumerate(steps):
    for value in _read(op, roots):
      last[value] = number
  kept = {v for v in outputs if v is not None}
  dying: dict[int, list[int]] = {}
  for value, number in last.items():
    if value in stored and value not in kept:
      dying.setdefault(number, []).append(value)
  live = peak = traffic = 0.0
  free = kept if donated else set()
  for number, op in enumerate(steps):
    written = [v for v in op.outputs if v in stored]
    size = sum(flat.sizes[v] for v in written)
    ends = sum(flat.sizes[v] for v in dying.get(number, ()))
    held = sum(flat.sizes[v] for v in written if v not in free)
    # A value that no one reads dies at once.
    unread = sum(flat.sizes[v] for v in written if v not in last and v not in kept)
    before = min(ends, held) if op.fused else 0.0
    peak = max(peak, live + held - before + op.inner)
    live += held - ends - unread
    traffic += op.inner_traffic
    if not op.inner_traffic:
      traffic += size + sum(flat.sizes[v] for v in _read(op, roots))
  return Estimate(
    temporaries=peak,
    traffic=traffic,
    flops=sum(op.flops for op in flat.operations),
    operations=sum(op.operations for op in flat.operations),
  )


def _read(op: _Operation, roots: Mapping[int, frozenset[int]]) -> set[int]:
  """The stored values that an operation reads."""
  return {root for value in op.inputs for root in roots.get(value, ())}


def _roots(
  flat: _Flat, arguments: set[int], outputs: Sequence[int | None]
) -> dict[int, frozenset[int]]:
  """Value -> the stored values that it is computed from; itself where it is stored."""
  readers: dict[int, list[str]] = {}
  for op in flat.operations:
    for value in op.inputs:
      readers.setdefault(value, []).append(op.name)
  kept = {v for v in outputs if v is not None}
  roots = {value: frozenset([value]) for value in arguments}
  expensive: set[int] = set()
  for op in flat.operations:
    sources = frozenset(r for v in op.inputs for r in roots.get(v, ()))
    costly = op.name in _EXPENSIVE or any(v in expensive for v in op.inputs)
    for value in op.outputs:
      names = readers.get(value, [])
      n, size = len(names), flat.sizes[value]
      held = [flat.sizes[r] for r in sources - arguments]
      # Sums of many values are stored as they grow.
      sums = len(held) > 2 and sum(held) > 2.5 * size
      again = n * sum(flat.sizes[r] for r in sources) > (n + 1) * size
      if op.name in _VIEWS and value not in kept:
        roots[value] = sources
      elif (
        not op.fused
        or value in kept
        or _is_stored(op.name, names, costly)
        or (n > 1 and again)
        or sums
      ):
        roots[value] = frozenset([value])
      else:
        roots[value] = sources
        if costly:
          expensive.add(value)
  return roots


def _is_stored(name: str, readers: Sequence[str], costly: bool) -> bool:
  """Whether a compiler stores an elementwise value that `readers` read."""
  if costly and len(readers) > 1:
    return True
  if name == "convert_element_type":
    readers = [reader for reader in readers if reader not in _PRODUCTS]
  return any(reader not in _FUSED and reader not in _ABSORBING for reader in readers)


def _size(variable: core.Var, share: Callable[[tuple[int, ...]], float]) -> float:
  aval = cast(jax.ShapeDtypeStruct, variable.aval)
  shape = getattr(aval, "shape", ())
  dtype = getattr(aval, "dtype", np.dtype(np.int32))
  return math.prod(shape) * getattr(dtype, "itemsize", 8) * share(shape)
