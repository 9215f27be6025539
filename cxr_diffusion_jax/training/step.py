"""One update, and one validation: where data, condition, process and network meet.

  x0 = encode(image); x_t = alpha_t x0 + sigma_t noise
  loss = mean of weight(t) * mean (denoise(x_t, t, dropped context) - target)^2
  ema <- d ema + (1 - d) params,  d = min(decay, (1 + step) / (10 + step))

Every function is callable unjitted. Keys are folded from the seed, a stream's number
and the step, so that a resumed run draws what an uninterrupted one draws.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.diffusion import loss as loss_lib
from cxr_diffusion_jax.diffusion import process as process_lib
from cxr_diffusion_jax.diffusion import time_sampler as time_sampler_lib
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.training import state as state_lib

# Networks take the time in the units of published weights: 1000 steps.
TIME_SCALE = 1000.0

# Numbers of the independent streams of random keys.
INIT_STREAM, TRAIN_STREAM, VALIDATION_STREAM, SAMPLE_STREAM = range(4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """All that the loss needs besides parameters, batch and key.

  Attributes:
    apply_fn: ({'params': params}, x_t, t [b] in [0, 1000], context) -> prediction.
    codec: pixels <-> what is denoised.
    conditioner: batch -> context.
    process: how x0 is corrupted, and what is predicted.
    time_sampler: (key, n) -> t [n] in [0, 1].
    weighting: of each example's loss, by its logsnr.
    drop_rates: probability that each stream is dropped, one a stream.
  """

  apply_fn: Callable[..., jax.Array]
  codec: codec_lib.Codec
  conditioner: conditioning.Conditioner
  process: process_lib.Process
  time_sampler: time_sampler_lib.TimeSampler
  weighting: loss_lib.Weighting
  drop_rates: tuple[float, ...]

  def denoise_fn(self, params: types.Params) -> types.DenoiseFn:
    """Binds parameters: (x_t, t in [0, 1], context) -> prediction."""
    return lambda x_t, t, context: self.apply_fn(
      {"params": params}, x_t, TIME_SCALE * t, context
    )


def stream_key(seed: int, stream: int) -> jax.Array:
  """Returns the key of one of the streams above."""
  return jax.random.fold_in(jax.random.key(seed), stream)


def losses(
  objective: Objective,
  params: types.Params,
  x_t: jax.Array,
  target: jax.Array,
  t: jax.Array,
  context: types.Context,
) -> jax.Array:
  """Returns the weighted loss of each example [b].

  Args:
    objective: what is minimised.
    params: the denoiser's parameters.
    x_t: [b h w c] corrupted codes.
    target: [b h w c] what should be predicted.
    t: [b] in [0, 1].
    context: the (dropped) condition.
  """
  process = objective.process
  prediction = objective.denoise_fn(params)(x_t, t, context)
  weight = objective.weighting(process.schedule.logsnr(t), process.prediction)
  return loss_lib.squared_error(
    prediction, target, weight, objective.codec.channel_weights()
  )


def train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  state: state_lib.TrainState,
  batch: types.Batch,
  *,
  seed: int,
  ema_decay: float,
  accumulation: int,
) -> tuple[state_lib.TrainState, dict[str, jax.Array]]:
  """Updates the state by one batch.

  Args:
    objective: what is minimised.
    optimizer: made for `state.opt_state`.
    state: before the update.
    batch: `image` [b h w 1] in [-1, 1] and the conditioner's columns.
    seed: the run's seed.
    ema_decay: of the parameters' moving average.
    accumulation: equal parts that the batch is worked off in; divides b.

  Returns:
    The state after it, and scalars `loss` and `grad_norm`.
  """
  key = jax.random.fold_in(stream_key(seed, TRAIN_STREAM), state.step)
  time_key, noise_key, drop_key = jax.random.split(key, 3)
  x0 = objective.codec.encode(batch["image"])
  b = x0.shape[0]
  t = objective.time_sampler(time_key, b)
  x_t, noise = objective.process.corrupt(noise_key, x0, t)
  target = objective.process.target(x0, noise, t)
  context = objective.conditioner(batch)
  drop = jax.random.bernoulli(
    drop_key, jnp.asarray(objective.drop_rates), (b, len(objective.drop_rates))
  )
  context = conditioning.drop_context(context, drop)

  def mean_loss(params, x_t, target, t, context):
    return losses(objective, params, x_t, target, t, context).mean()

  loss_and_grad = jax.value_and_grad(mean_loss)
  if accumulation > 1:
    # Not for one part: XLA's loop on the CPU runs a convolution's gradient on a slow
    # path (a step of the tiny UNet took 24 times as long).
    loss_and_grad = optax.microbatching.microbatch(
      loss_and_grad,
      argnums=(1, 2, 3, 4),
      microbatch_size=b // accumulation,
      accumulator=optax.microbatching.AccumulationType.MEAN,
    )
  loss, grads = loss_and_grad(state.params, x_t, target, t, context)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  # Early averages forget the random initial parameters quickly.
  decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
  new_state = state_lib.TrainState(
    step=state.step + 1,
    params=params,
    ema_params=optax.incremental_update(params, state.ema_params, 1.0 - decay),
    opt_state=opt_state,
  )
  return new_state, {"loss": loss, "grad_norm": optax.tree.norm(grads)}


def validation_step(
  objective: Objective, params: types.Params, batch: types.Batch, *, seed: int
) -> dict[str, jax.Array]:
  """Sums the loss of a batch, with times and noise that belong to each row.

  Args:
    objective: what was minimised.
    params: averaged parameters.
    batch: with `row` [b], and `valid` [b] False on the padding of a last batch.
    seed: the run's seed.

  Returns:
    `total` and `count`, with and without (`_unconditional`) the condition.
  """
  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
    stream_key(seed, VALIDATION_STREAM), batch["row"]
  )
  time_keys, noise_keys = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
  t = jax.vmap(lambda key: objective.time_sampler(key, 1)[0])(time_keys)
  x0 = objective.codec.encode(batch["image"])

  def corrupt(key, x0, t):
    x_t, noise = objective.process.corrupt(key, x0[None], t[None])
    return x_t[0], objective.process.target(x0[None], noise, t[None])[0]

  x_t, target = jax.vmap(corrupt)(noise_keys, x0, t)
  context = objective.conditioner(batch)
  valid = batch["valid"]
  sums: dict[str, Any] = {"count": valid.sum()}
  for name, kept in (
    ("total", context),
    ("total_unconditional", conditioning.drop_all(context)),
  ):
    each = losses(objective, params, x_t, target, t, kept)
    sums[name] = jnp.where(valid, each, 0.0).sum()
  return sums
