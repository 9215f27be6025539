"""Runs training steps of small networks: one in a call on CPUs, several elsewhere.

  batches --stacked--> [k b ...] --k steps, one call--> State, losses of each step

Each call is a round trip between host and accelerator. Where several processes share a
card, every round trip waits for the others' turns. On a CPU, gradients of convolutions
are over ten times slower inside XLA's loops, so that a step is a call there.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent import futures
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cxr_diffusion_jax import types

# (key, parameters, optimizer state, batch) -> (parameters, optimizer state, losses);
# the given parameters and state are consumed.
StepFn = Callable[
  [jax.Array, types.Params, optax.OptState, types.Batch],
  tuple[types.Params, optax.OptState, dict[str, jax.Array]],
]

# Share of the previous mean in the running mean of the parameters.
_DECAY = 0.99

# Steps of a call on an accelerator, at most, and bytes of their batches. The host waits
# for each call, and longer where several processes share the device.
_STEPS_PER_CALL, _BYTES_PER_CALL = 32, 2**26


class State(NamedTuple):
  """What a step changes; `mean` is the running mean of the parameters, or None."""

  params: types.Params
  opt_state: optax.OptState
  mean: types.Params


def run(
  step_fn: StepFn,
  state: State,
  key: jax.Array,
  first: int,
  batches: types.Batch,
  count: int,
) -> tuple[State, list[dict[str, float]]]:
  """Runs `count` steps on stacked batches [k b ...]; returns the losses of each."""
  if len(jax.tree.leaves(batches)[0]) == 1:
    batch = jax.tree.map(lambda leaf: leaf[0], batches)
    state, terms = _step(step_fn, state, key, first, batch)
    return state, [{term: float(value) for term, value in terms.items()}]
  state, terms = _steps(step_fn, state, key, first, count, batches)
  terms = {term: np.asarray(values) for term, values in terms.items()}
  each = [{term: float(terms[term][i]) for term in terms} for i in range(count)]
  return state, each


def _step(
  step_fn: StepFn,
  state: State,
  key: jax.Array,
  step: types.Array | int,
  batch: types.Batch,
) -> tuple[State, dict[str, jax.Array]]:
  params, opt_state, terms = step_fn(
    jax.random.fold_in(key, step), state.params, state.opt_state, batch
  )
  mean = None if state.mean is None else _moved(state.mean, params, step + 1)
  return State(params, opt_state, mean), terms


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _steps(
  step_fn: StepFn,
  state: State,
  key: jax.Array,
  first: types.Array,
  count: types.Array,
  batches: types.Batch,
) -> tuple[State, dict[str, jax.Array]]:
  """`_step` for the first `count` of the batches, and terms [k]."""

  def body(i, carry):
    state, terms = carry
    batch = jax.tree.map(lambda leaf: leaf[i], batches)
    state, new = _step(step_fn, state, key, first + i, batch)
    return state, {term: terms[term].at[i].set(new[term]) for term in terms}

  batch = jax.tree.map(lambda leaf: leaf[0], batches)
  _, like = jax.eval_shape(functools.partial(_step, step_fn), state, key, first, batch)
  size = len(jax.tree.leaves(batches)[0])
  terms = {term: jnp.zeros(size, leaf.dtype) for term, leaf in like.items()}
  return jax.lax.fori_loop(0, count, body, (state, terms))


@jax.jit
def _moved(
  mean: types.Params, params: types.Params, num_steps: types.Array | int
) -> types.Params:
  # The first steps weigh less: the initial parameters are far from a minimum.
  decay = jnp.minimum(_DECAY, num_steps / (num_steps + 9))
  return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, mean, params)


def calls(
  batches: Iterator[types.Batch],
  num_steps: int,
  check_every: int,
  steps_per_call: int,
  first: int = 0,
) -> Generator[tuple[types.Batch, int], None, None]:
  """Yields the batches of each call, [k b ...], and how many of the k are steps.

  The first batch is that of step `first`. A call ends where a figure is due. The next
  one is read while one is in use.
  """
  some = _stacked(batches, num_steps, check_every, steps_per_call, first)
  if steps_per_call == 1:
    yield from some
    return
  with futures.ThreadPoolExecutor(1) as executor:
    coming = executor.submit(next, some, None)
    while (call := coming.result()) is not None:
      coming = executor.submit(next, some, None)
      yield call


def _stacked(
  batches: Iterator[types.Batch],
  num_steps: int,
  check_every: int,
  steps_per_call: int,
  step: int,
) -> Iterator[tuple[types.Batch, int]]:
  while step < num_steps:
    left = min(num_steps - step, check_every - step % check_every)
    count = min(steps_per_call, left)
    some = list(itertools.islice(batches, count))
    # One size: one program.
    some += some[-1:] * (steps_per_call - count)
    yield jax.tree.map(lambda *leaves: np.stack(leaves), *some), count
    step += count


def default_steps_per_call(params: types.Params, batch: types.Batch) -> int:
  """1 on CPUs; elsewhere as many as fit, of batches like this one."""
  if on_cpu(params):
    return 1
  size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(batch))
  return int(np.clip(_BYTES_PER_CALL // max(1, size), 1, _STEPS_PER_CALL))


def on_cpu(params: types.Params) -> bool:
  """Whether these arrays are on a CPU."""
  (device, *_) = jnp.asarray(jax.tree.leaves(params)[0]).devices()
  return device.platform == "cpu"
