"""Trains small networks on one device: stand-in encoders, probes and regressors.

  rows of whole shuffled passes -> batch -> step_fn -> parameters, losses of each step

The number of steps is fixed, so that the same inputs give the same parameters on the
same kind of machine.
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np
import optax

from cxr_diffusion_jax import types

# (key, parameters, batch) -> (scalar, further scalars by name)
LossFn = Callable[
  [jax.Array, types.Params, types.Batch], tuple[jax.Array, dict[str, jax.Array]]
]
# (key, parameters, optimizer state, batch) -> (parameters, optimizer state, losses);
# the given parameters and state are consumed.
StepFn = Callable[
  [jax.Array, types.Params, optax.OptState, types.Batch],
  tuple[types.Params, optax.OptState, dict[str, jax.Array]],
]


def learning_rate(peak: float, num_steps: int) -> optax.Schedule:
  """Linear warm-up over a tenth of the steps, then a cosine to `peak` / 100."""
  return optax.warmup_cosine_decay_schedule(
    0.0, peak, max(1, num_steps // 10), max(2, num_steps), end_value=0.01 * peak
  )


def make_step_fn(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  constrain_fn: Callable[[types.Params], types.Params] = lambda params: params,
) -> StepFn:
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
  step_fn: StepFn,
  tx: optax.GradientTransformation,
  params: types.Params,
  read_batch: Callable[[np.ndarray], types.Batch],
  num_rows: int,
  *,
  name: str,
  num_steps: int,
  batch_size: int,
  seed: int,
  progress: types.Progress = types.no_progress,
) -> tuple[types.Params, list[dict[str, float]]]:
  """Runs the steps; returns the parameters, and the losses of each step.

  Args:
    step_fn: of `make_step_fn` with `tx`; one serves any number of calls.
    tx: the optimizer.
    params: initial parameters; consumed by the first step.
    read_batch: rows [b] -> batch.
    num_rows: training examples.
    name: the network's name, for progress and errors.
    num_steps: number of updates.
    batch_size: b.
    seed: of the order and of each step's key.
    progress: called after each step, with the loss in its label.

  Raises:
    FloatingPointError: the loss is not finite.
  """
  key, opt_state = jax.random.key(seed), tx.init(params)
  losses = []
  order = shuffled_rows(num_rows, num_steps, batch_size, seed)
  for step, rows in enumerate(order):
    params, opt_state, metrics = step_fn(
      jax.random.fold_in(key, step), params, opt_state, read_batch(rows)
    )
    losses.append({term: float(value) for term, value in metrics.items()})
    loss = losses[-1]["loss"]
    if not np.isfinite(loss):
      raise FloatingPointError(f"loss of the {name} at step {step}: {losses[-1]}")
    progress(f"{name}, loss {loss:.3f}", step + 1, num_steps)
  return params, losses


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
