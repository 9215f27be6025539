"""The training step and the validation step.

  x0 = encode(image); x_t = alpha_t x0 + sigma_t noise
  denoise = network between a preconditioning's inputs and output
  loss = mean of weight(t) * mean (denoise(x_t, t, dropped context) - target)^2
  ema <- d ema + (1 - d) params,  d = min(decay, (1 + step) / (10 + step))

Keys are folded from the seed, a stream index and the step, so a resumed run draws
the same noise as an uninterrupted one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.diffusion import loss as loss_lib
from cxr_diffusion_jax.diffusion import process as process_lib
from cxr_diffusion_jax.diffusion import time_sampler as time_sampler_lib
from cxr_diffusion_jax.run import augmentation
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import power_ema as power_ema_lib
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import alignment as alignment_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """Everything the loss needs besides parameters, batch and key.

  Attributes:
    time_sampler: (key, n, schedule) -> t [n] in [0, 1].
    weighting: weight of each example's loss as a function of its time.
    augment: share of the images that are changed, see `run.augmentation`.
  """

  denoiser: denoiser_lib.Denoiser
  time_sampler: time_sampler_lib.TimeSampler
  weighting: loss_lib.Weighting
  drop_rates: tuple[float, ...]
  augment: float = 0.0
  alignment: alignment_lib.Alignment | None = None


def losses(
  objective: Objective, prediction: jax.Array, target: jax.Array, t: jax.Array
) -> jax.Array:
  """Returns the weighted loss of each example [b]."""
  process = objective.denoiser.process
  weight = objective.weighting(process, t)
  weight = weight * objective.time_sampler.weight(t, process.schedule)
  channel_weights = jnp.asarray(objective.denoiser.codec.channel_weights())
  return loss_lib.squared_error(prediction, target, weight, channel_weights)


def total_loss(
  objective: Objective,
  learned: types.Params,
  x_t: jax.Array,
  target: jax.Array,
  t: jax.Array,
  context: types.Context,
  features_target: jax.Array | None = None,
  dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the scalar to minimise, and metrics.

  Args:
    learned: parameters as `state.learned` returns them.
    x_t: [b h w c] noised latents.
    features_target: [b n d], target of the features if there is an alignment.
    dropout_key: of the network's dropout; None for none.
  """
  denoiser, alignment = objective.denoiser, objective.alignment
  if alignment is None or features_target is None:
    prediction = denoiser.denoise_fn(learned, dropout_key)(x_t, t, context)
    loss = losses(objective, prediction, target, t).mean()
    return loss, {"loss": loss}
  prediction, features = alignment_lib.predict_with_features(
    denoiser, learned["denoiser"], x_t, t, context, dropout_key
  )
  loss = losses(objective, prediction, target, t).mean()
  apart = alignment.losses(learned["projector"], features, features_target).mean()
  return loss + alignment.weight * apart, {"loss": loss, "repa_loss": apart}


def train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  state: state_lib.TrainState,
  batch: types.Batch,
  *,
  seed: int,
  ema_decay: float,
  accumulation: int,
  powers: tuple[float, ...] = (),
) -> tuple[state_lib.TrainState, dict[str, jax.Array]]:
  """Updates the state by one batch.

  Args:
    batch: `image` [b h w 1] in [-1, 1], or the codec's columns instead, and the fields
      of the conditioner.
    accumulation: number of equal parts of the batch that are processed in turn.
    powers: powers of the averages `state.power_ema`.

  Returns:
    The next state, and scalars: `loss`, `grad_norm`, and `repa_loss` if there is an
    alignment.
  """
  key = _step_key(seed, state.step)
  inputs = _inputs(objective, key, batch)
  dropout_key = jax.random.fold_in(key, 4)

  def loss_of(learned, *inputs, rows=None):
    # Each part draws masks of its own, or single rows would all have the same mask.
    mask_key = dropout_key if rows is None else jax.random.fold_in(dropout_key, rows[0])
    return total_loss(objective, learned, *inputs, dropout_key=mask_key)

  loss_and_grad = jax.value_and_grad(loss_of, has_aux=True)
  if accumulation > 1:
    b = len(inputs[0])
    # Only for several parts, because within loops XLA on CPUs computes gradients of
    # convolutions on a slow path (a step of the tiny UNet took 24 times as long).
    loss_and_grad = functools.partial(
      optax.microbatching.microbatch(
        loss_and_grad,
        argnums=(1, 2, 3, 4, 5),
        argnames="rows",
        microbatch_size=b // accumulation,
        accumulator=optax.microbatching.AccumulationType.MEAN,
      ),
      rows=jnp.arange(b),
    )
  learned = state_lib.learned(state.params, state.projector)
  (_, metrics), grads = loss_and_grad(learned, *inputs)
  updates, opt_state = optimizer.update(grads, state.opt_state, learned)
  params, projector = state_lib.split(
    optax.apply_updates(learned, updates), bool(state.projector)
  )
  # Early averages forget the random initial parameters quickly.
  decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
  new_state = state_lib.TrainState(
    step=state.step + 1,
    params=params,
    ema_params=optax.incremental_update(params, state.ema_params, 1.0 - decay),
    opt_state=opt_state,
    power_ema=tuple(
      power_ema_lib.update(average, params, state.step + 1, power)
      for average, power in zip(state.power_ema, powers, strict=True)
    ),
    projector=projector,
  )
  return new_state, {**metrics, "grad_norm": optax.tree.norm(grads)}


def rows_step(
  objective: Objective,
  state: state_lib.TrainState,
  batch: types.Batch,
  step: types.Array,
  *,
  seed: int,
) -> dict[str, jax.Array]:
  """The time `t` and `loss` of each row [b] in update `step`, counted from 1."""
  key = _step_key(seed, step - 1)
  x_t, target, t, context, _ = _inputs(objective, key, batch)
  dropout_key = jax.random.fold_in(key, 4)
  denoise_fn = objective.denoiser.denoise_fn(state.params, dropout_key)
  return {"t": t, "loss": losses(objective, denoise_fn(x_t, t, context), target, t)}


def _step_key(seed: int, step: types.Array) -> jax.Array:
  """The key of the update after `step` updates."""
  return jax.random.fold_in(
    denoiser_lib.stream_key(seed, denoiser_lib.TRAIN_STREAM), step
  )


def _inputs(
  objective: Objective, key: jax.Array, batch: types.Batch
) -> tuple[jax.Array, jax.Array, jax.Array, types.Context, jax.Array | None]:
  """The arguments x_t, target, t, context and features_target of `total_loss`."""
  denoiser = objective.denoiser
  process = denoiser.process
  time_key, noise_key, drop_key = jax.random.split(key, 3)
  # More keys, independent of the three from `split`.
  changes = ()
  if objective.augment:
    image, stream = augmentation.augment(
      jax.random.fold_in(key, 5), batch["image"], objective.augment
    )
    batch, changes = {**batch, "image": image}, (stream,)
  x0 = denoiser.codec.encode_batch(jax.random.fold_in(key, 3), batch)
  b = x0.shape[0]
  t = objective.time_sampler(time_key, b, process.schedule)
  x_t, noise = process.corrupt(noise_key, x0, t)
  target = process.target(x0, noise, t)
  context = denoiser.conditioner(batch)
  drop = jax.random.bernoulli(
    drop_key, jnp.asarray(objective.drop_rates), (b, len(objective.drop_rates))
  )
  alignment = objective.alignment
  features_target = None if alignment is None else alignment.target(batch)
  context = (*conditioning.drop_context(context, drop), *changes)
  return x_t, target, t, context, features_target


def validation_step(
  objective: Objective, params: types.Params, batch: types.Batch, *, seed: int
) -> dict[str, jax.Array]:
  """Sums the loss of a batch, with fixed times and noise for each row.

  Args:
    batch: with `row` [b], and `valid` [b], False for the padding of a last batch.

  Returns:
    `count`, and the sums `loss` and `loss_unconditional`: with the condition, without.
  """
  keys = _row_keys(seed, batch["row"])
  time_keys, noise_keys = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
  process = objective.denoiser.process
  schedule = process.schedule
  t = jax.vmap(lambda key: objective.time_sampler(key, 1, schedule)[0])(time_keys)
  x0 = objective.denoiser.codec.encode_batch(None, batch)

  x_t, target = _corrupt_rows(process, noise_keys, x0, t)
  context = objective.denoiser.conditioner(batch)
  valid = batch["valid"]
  denoise_fn = objective.denoiser.denoise_fn(params)
  sums: artifacts.Json = {"count": valid.sum()}
  for name, kept in (
    ("loss", context),
    ("loss_unconditional", conditioning.drop_all(context)),
  ):
    each = losses(objective, denoise_fn(x_t, t, kept), target, t)
    sums[name] = jnp.where(valid, each, 0.0).sum()
  return sums


def row_losses(
  objective: Objective, params: types.Params, batch: types.Batch, *, num_times: int
) -> jax.Array:
  """The losses of each row at the same times, with fixed noise for each row and time.

  Args:
    batch: with `row` [b].
    num_times: times, at even quantiles of those of training.

  Returns:
    [b num_times].
  """
  denoiser = objective.denoiser
  x0 = denoiser.codec.encode_batch(None, batch)
  context = denoiser.conditioner(batch)
  denoise_fn = denoiser.denoise_fn(params)
  keys = _row_keys(0, batch["row"])

  def at(number_and_time: tuple[jax.Array, jax.Array]) -> jax.Array:
    number, time = number_and_time
    t = jnp.full(len(x0), time)
    noise_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
    x_t, target = _corrupt_rows(denoiser.process, noise_keys, x0, t)
    return losses(objective, denoise_fn(x_t, t, context), target, t)

  quantiles = (jnp.arange(num_times) + 0.5) / num_times
  times = objective.time_sampler.times_at(quantiles, denoiser.process.schedule)
  return jax.lax.map(at, (jnp.arange(num_times), times)).T


def _row_keys(seed: int, row: types.Array) -> jax.Array:
  """A key for each row [b], the same in any batch."""
  key = denoiser_lib.stream_key(seed, denoiser_lib.VALIDATION_STREAM)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row)


def _corrupt_rows(
  process: process_lib.Process, keys: jax.Array, x0: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """x_t and the target, with a key [b] for each row."""

  def corrupt(key, x0, t):
    x_t, noise = process.corrupt(key, x0[None], t[None])
    return x_t[0], process.target(x0[None], noise, t[None])[0]

  return jax.vmap(corrupt)(keys, x0, t)
