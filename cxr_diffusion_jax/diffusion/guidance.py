"""Classifier-free guidance: a denoiser made of one denoiser with and without condition.

guided = unconditional + scale (conditional - unconditional)

Ho and Salimans 2022 (2207.12598), eq. 6 with scale = 1 + w: 0 is unconditional, 1 is
conditional, above 1 trades variety for adherence. All four kinds of prediction are
linear in each other given x_t, so guiding one guides all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cxr_diffusion_jax.types import Array, Context, DenoiseFn


def classifier_free(
  denoise_fn: DenoiseFn,
  drop_fn: Callable[[Context], Context],
  scale: float | Array,
  interval: tuple[float, float] | None = None,
) -> DenoiseFn:
  """Guides a denoiser; both branches run as one batch of twice the size.

  Args:
    denoise_fn: (x_t [b ...], t [b], context) -> prediction [b ...].
    drop_fn: makes a context into the one of the unconditional branch, same shapes.
    scale: one number, or [b] with one for each sample. The numbers 1 and 0 need one
      branch only, and run only that one.
    interval: (low, high) times within which to guide; elsewhere the conditional
      branch alone runs, which is faster and gives better images, Kynkäänniemi et al.
      2024 (2404.07724). All samples of a batch are taken to be at one time.

  Returns:
    The guided denoiser, with the signature of `denoise_fn`.
  """
  if isinstance(scale, int | float) and scale == 1:
    return denoise_fn

  def unconditional(x_t, t, context):
    return denoise_fn(x_t, t, drop_fn(context))

  def both(x_t, t, context):
    context = jax.tree.map(_stack, context, drop_fn(context))
    prediction = denoise_fn(_stack(x_t, x_t), _stack(t, t), context)
    conditional, dropped = jnp.split(prediction.astype(jnp.float32), 2)
    factor = jnp.asarray(scale, jnp.float32)
    factor = factor.reshape(factor.shape + (1,) * (x_t.ndim - factor.ndim))
    return dropped + factor * (conditional - dropped)

  only_unconditional = isinstance(scale, int | float) and scale == 0
  guided = unconditional if only_unconditional else both
  if interval is None:
    return guided
  low, high = interval

  def within_interval(x_t, t, context):
    def plain(x_t, t, context):
      return denoise_fn(x_t, t, context).astype(jnp.float32)

    def full(x_t, t, context):
      return guided(x_t, t, context).astype(jnp.float32)

    inside = jnp.all((t >= low) & (t <= high))
    return jax.lax.cond(inside, full, plain, x_t, t, context)

  return within_interval


def _stack(first: Array, second: Array) -> jax.Array:
  return jnp.concatenate([first, second], axis=0)
