"""Trains small networks on one device: stand-in encoders, probes and regressors.

  rows of whole shuffled passes -> batch -> step_fn -> parameters, losses of each step
  state --`unfinished`--> file, from which an interrupted training is resumed
  running mean of the parameters --held-out images--> figure -> plateau: stop, the best

The number of steps depends on the inputs alone, so that the same inputs give the same
parameters on the same kind of machine. An accelerator runs several steps in a call,
while the host reads the batches of the next one.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import itertools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cxr_diffusion_jax import checked_files, types
from cxr_diffusion_jax.encoders import fitting_steps
from cxr_diffusion_jax.encoders.unfinished import Unfinished

# (key, parameters, batch) -> (scalar, further scalars by name)
LossFn = Callable[
  [jax.Array, types.Params, types.Batch], tuple[jax.Array, dict[str, jax.Array]]
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plateau:
  """When a figure of held-out examples has stopped growing.

  The figure is that of a running mean of the parameters, which varies less than they do
  at a constant learning rate (Polyak and Juditsky 1992, "Acceleration of stochastic
  approximation by averaging").

  Attributes:
    figure_fn: parameters -> a figure, or several in order of importance; higher is
      better.
    check_every: steps between two figures.
    patience: figures in a row without growth that end the training.
  """

  figure_fn: Callable[[types.Params], tuple[float, ...]]
  check_every: int
  patience: int


class Fitted(NamedTuple):
  """Parameters, and how they were trained.

  Attributes:
    losses: of each step.
    figures: step and figure of each check; empty without a plateau.
    best_step: number of updates of the parameters.
  """

  params: types.Params
  losses: list[dict[str, float]]
  figures: list[tuple[int, tuple[float, ...]]]
  best_step: int


def learning_rate(peak: float, num_steps: int) -> optax.Schedule:
  """Linear warm-up over a tenth of the steps, then a cosine to `peak` / 100."""
  return optax.warmup_cosine_decay_schedule(
    0.0, peak, max(1, num_steps // 10), max(2, num_steps), end_value=0.01 * peak
  )


def steady_learning_rate(peak: float, num_steps: int) -> optax.Schedule:
  """`peak` after at most 100 steps, for trainings that a plateau ends.

  Over the last quarter of the steps it falls to `peak` / 100, for those that it does
  not end.
  """
  warmup = optax.linear_schedule(0.0, peak, min(100, max(1, num_steps // 10)))
  last = num_steps // 4
  falling = optax.linear_schedule(peak, 0.01 * peak, max(1, last))
  return optax.join_schedules([warmup, falling], [num_steps - last])


def make_step_fn(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  constrain_fn: Callable[[types.Params], types.Params] = lambda params: params,
) -> fitting_steps.StepFn:
  """Returns one update, compiled when it is first called.

  The scalar of `loss_fn` is minimised and reported as "loss"; `constrain_fn` is applied
  to the parameters after each update. Each step is a separate call: on a CPU,
  gradients of convolutions are over ten times slower inside XLA's loops.
  """

  def step(key, params, opt_state, batch):
    def loss_of(params):
      return loss_fn(key, params, batch)

    (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = constrain_fn(optax.apply_updates(params, updates))
    return params, opt_state, {**metrics, "loss": loss}

  return jax.jit(step, donate_argnums=(1, 2))


def fit(
  step_fn: fitting_steps.StepFn,
  tx: optax.GradientTransformation,
  params: types.Params,
  read_batch: Callable[[np.ndarray], types.Batch],
  num_rows: int,
  *,
  name: str,
  num_steps: int,
  batch_size: int,
  seed: int,
  plateau: Plateau | None = None,
  steps_per_call: int | None = None,
  unfinished: Unfinished | None = None,
  progress: types.Progress = types.no_progress,
) -> Fitted:
  """Runs the steps.

  Args:
    step_fn: of `make_step_fn` with `tx`; one serves any number of calls.
    tx: the optimizer.
    params: initial parameters; consumed by the first step.
    read_batch: rows [b] -> batch.
    num_rows: training examples.
    name: the network's name, for progress and errors.
    num_steps: number of updates; with a plateau, at most.
    batch_size: b.
    seed: of the order and of each step's key.
    plateau: ends the training early; the result is the running mean with the best
      figure. None for the parameters after the last step.
    steps_per_call: at most; None for one on CPUs, several on accelerators.
    unfinished: keeps the state, and is resumed; the caller removes it after saving
      the result. None for none.
    progress: called after each step, with the loss in its label.

  Raises:
    FloatingPointError: the loss is not finite.
  """
  key = jax.random.key(seed)
  mean = jax.tree.map(jnp.array, params) if plateau else None
  state, best = fitting_steps.State(params, tx.init(params), mean), _Best()
  losses: list[dict[str, float]] = []
  if unfinished:
    state, best, losses = _resumed(unfinished, state)
  rows = shuffled_rows(num_rows, num_steps, batch_size, seed)
  batches = map(read_batch, itertools.islice(rows, len(losses), None))
  if steps_per_call is None:
    batch = next(batches, {})
    steps_per_call = fitting_steps.default_steps_per_call(params, batch)
    batches = itertools.chain([batch], batches)
  check_every = plateau.check_every if plateau else num_steps
  calls = fitting_steps.calls(
    batches, num_steps, check_every, steps_per_call, len(losses)
  )
  saved = time.monotonic()
  with contextlib.closing(calls):
    for stacked, count in calls:
      first = len(losses)
      state, terms = fitting_steps.run(step_fn, state, key, first, stacked, count)
      losses += terms
      for step, one in enumerate(terms, start=first):
        if not np.isfinite(one["loss"]):
          raise FloatingPointError(f"loss of the {name} at step {step}: {one}")
      done = plateau is not None and best.reached(
        plateau, len(losses), num_steps, state.mean
      )
      total = len(losses) if done else num_steps
      for step, one in enumerate(terms, start=first + 1):
        progress(f"{name}, loss {one['loss']:.3f}", step, total)
      if done:
        break
      if unfinished and time.monotonic() - saved >= checked_files.SAVE_PERIOD:
        _keep(unfinished, state, best, losses)
        saved = time.monotonic()
  if not plateau:
    return Fitted(state.params, losses, [], len(losses))
  return Fitted(best.params, losses, best.figures, best.step)


@dataclasses.dataclass
class _Best:
  """The running mean of the parameters with the best figure so far."""

  params: types.Params = None
  step: int = 0
  figure: tuple[float, ...] = ()
  figures: list[tuple[int, tuple[float, ...]]] = dataclasses.field(default_factory=list)

  def reached(
    self, plateau: Plateau, step: int, num_steps: int, mean: types.Params
  ) -> bool:
    """Measures the mean after a step, where a figure is due; whether to stop."""
    if step < num_steps and step % plateau.check_every:
      return False
    figure = plateau.figure_fn(mean)
    self.figures.append((step, figure))
    if figure > self.figure:
      # A copy: the next call may consume the mean.
      self.params = jax.tree.map(jnp.array, mean)
      self.step, self.figure = step, figure
    return step - self.step >= plateau.patience * plateau.check_every


def _keep(
  unfinished: Unfinished,
  state: fitting_steps.State,
  best: _Best,
  losses: list[dict[str, float]],
) -> None:
  facts = {"step": best.step, "figure": best.figure, "figures": best.figures}
  unfinished.write((state, best.params), {"losses": losses, "best": facts})


def _resumed(
  unfinished: Unfinished, state: fitting_steps.State
) -> tuple[fitting_steps.State, _Best, list[dict[str, float]]]:
  """What `_keep` saved; the initial state where nothing fits."""
  leaves, facts = unfinished.read() or ([], {})
  best = _Best(**facts.get("best", {}))
  like = state, (state.params if best.step else None)
  expected = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(like)]
  if [(leaf.shape, leaf.dtype) for leaf in leaves] != expected:
    return state, _Best(), []
  best.figure = tuple(best.figure)
  best.figures = [(step, tuple(figure)) for step, figure in best.figures]
  state, best.params = jax.tree.unflatten(jax.tree.structure(like), leaves)
  return state, best, facts["losses"]


def shuffled_rows(
  num_rows: int, num_steps: int, batch_size: int, seed: int
) -> Iterator[np.ndarray]:
  """Yields the rows of each step: whole shuffled passes, one after another."""
  generator = np.random.default_rng(seed)
  order = np.empty(0, np.int64)
  for _ in range(num_steps):
    while len(order) < batch_size:
      order = np.concatenate([order, generator.permutation(num_rows)])
    yield order[:batch_size]
    order = order[batch_size:]
