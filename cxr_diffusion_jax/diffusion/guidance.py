"""Guidance: a denoiser extrapolated from a weaker prediction to a better one.

classifier-free   guided = unconditional + scale (conditional - unconditional)
composed          guided = unconditional + sum_s scale_s (only stream s - unconditional)
autoguidance      guided = weak + scale (good - weak)

Given x_t, all four kinds of prediction are linear in each other, so guiding one guides
all. Scales above 1 trade variety for adherence. Guidance can be limited to an interval
of times, and its result rescaled to the standard deviation of the conditional one.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.types import Context, DenoiseFn

T = TypeVar("T", Array, Context)


def classifier_free(
  denoise_fn: DenoiseFn,
  drop_fn: Callable[[Context], Context],
  scale: float | Array,
  interval: tuple[float, float] | None = None,
  rescale: float = 0.0,
) -> DenoiseFn:
  """Guides a denoiser away from its unconditional prediction.

  Ho and Salimans 2022 (2207.12598), eq. 6 with scale = 1 + w: 0 is unconditional, 1 is
  conditional. Both branches run as one batch of twice the size.

  Args:
    denoise_fn: (x_t [b ...], t [b], context) -> prediction [b ...].
    drop_fn: makes the context of the unconditional branch, of the same shapes.
    scale: one number, or [b] with one for each sample. The numbers 1 and 0 run one
      branch only; arrays run both.
    interval: (low, high) times within which to guide; elsewhere only the conditional
      branch runs, which is faster and gives better images, Kynkäänniemi et al. 2024
      (2404.07724). All samples of a batch must be at one time.
    rescale: in [0, 1], how far each sample's standard deviation is rescaled to the
      conditional one, against the overexposure of large scales: Lin et al. 2023
      (2305.08891), eq. 15 and 16.
  """
  if _is(scale, 1):
    return denoise_fn
  return composed(
    denoise_fn, drop_fn, [lambda context: context], [scale], interval, rescale
  )


def composed(
  denoise_fn: DenoiseFn,
  drop_fn: Callable[[Context], Context],
  keep_fns: Sequence[Callable[[Context], Context]],
  scales: Sequence[float | Array],
  interval: tuple[float, float] | None = None,
  rescale: float = 0.0,
) -> DenoiseFn:
  """Guides by each stream of the condition with a scale of its own.

  Conjunction of Liu et al. 2022 (2206.01714), eq. 11. The unconditional branch and one
  for each stream run as one batch. The sum lacks interactions of streams, so scales of
  1 are not the conditional denoiser unless there is one stream.

  Args:
    denoise_fn: as of `classifier_free`, and so is `drop_fn`.
    keep_fns: one a stream: the context with every other stream dropped, same shapes.
    scales: one a stream, each a number or [b]. A stream whose scale is the number 0
      has no branch; where only one is left and is 1, its branch alone runs.
    interval: as of `classifier_free`; elsewhere one branch sees all streams.
    rescale: as of `classifier_free`, to the standard deviation of the sum with 1 for
      every scale that is not 0.
  """
  branches = [
    (keep_fn, scale)
    for keep_fn, scale in zip(keep_fns, scales, strict=True)
    if not _is(scale, 0)
  ]
  kept = [scale for _, scale in branches]

  def guided(x_t, t, context):
    contexts = [keep_fn(context) for keep_fn, _ in branches]
    if len(kept) == 1 and _is(kept[0], 1):
      return denoise_fn(x_t, t, contexts[0])
    contexts = [drop_fn(context), *contexts]
    k = len(contexts)
    if k == 1:
      return denoise_fn(x_t, t, contexts[0])
    prediction = denoise_fn(_beside([x_t] * k), _beside([t] * k), _beside(contexts))
    prediction = prediction.astype(jnp.float32)
    prediction = prediction.reshape(-1, k, *x_t.shape[1:])
    dropped, *only = (prediction[:, i] for i in range(k))
    return _extrapolated(dropped, only, kept, rescale)

  return _within(interval, guided, denoise_fn)


def autoguidance(
  denoise_fn: DenoiseFn,
  weak_fn: DenoiseFn,
  scale: float | Array,
  interval: tuple[float, float] | None = None,
  rescale: float = 0.0,
) -> DenoiseFn:
  """Guides a denoiser away from the mistakes of a worse one with the same condition.

  Karras et al. 2024 (2406.02070), eq. 3: unlike classifier-free guidance, which it
  takes the place of, it costs no variety. The two have different parameters, so a step
  makes two calls, not one of twice the size.

  Args:
    denoise_fn: the good one.
    weak_fn: a weaker one: trained for less long, or smaller.
    scale: as of `classifier_free`: 0 is the weak one alone, 1 the good one alone.
    interval: likewise; elsewhere the good one runs alone.
    rescale: likewise, to the good one's standard deviation.
  """
  if _is(scale, 1):
    return denoise_fn

  def guided(x_t, t, context):
    weak = weak_fn(x_t, t, context).astype(jnp.float32)
    if _is(scale, 0):
      return weak
    good = denoise_fn(x_t, t, context).astype(jnp.float32)
    return _extrapolated(weak, [good], [scale], rescale)

  return _within(interval, guided, denoise_fn)


def num_evaluations(scales: Sequence[float | Array]) -> int:
  """Evaluations of a network that one guided step costs each sample.

  1 + the scales that are not the number 0, or 1 where the only such is the number 1.
  Outside an interval a step costs 1.
  """
  kept = [scale for scale in scales if not _is(scale, 0)]
  return 1 if len(kept) == 1 and _is(kept[0], 1) else 1 + len(kept)


def _is(scale: float | Array, number: int) -> bool:
  """Whether a scale is a Python number, known at compilation, of this value."""
  return isinstance(scale, int | float) and scale == number


def _extrapolated(
  base: Array, others: Sequence[Array], scales: Sequence[float | Array], rescale: float
) -> Array:
  """Returns base + sum of scale (other - base), rescaled; all [b ...] float32."""
  guided = plain = base
  for other, scale in zip(others, scales, strict=True):
    factor = jnp.asarray(scale, jnp.float32)
    factor = factor.reshape(factor.shape + (1,) * (base.ndim - factor.ndim))
    guided = guided + factor * (other - base)
    # A scale of 0 leaves the other out.
    plain = plain + jnp.where(factor == 0, 0.0, other - base)
  if _is(rescale, 0):
    return guided
  axes = tuple(range(1, base.ndim))
  wanted = jnp.std(plain, axes, keepdims=True)
  ratio = wanted / jnp.maximum(jnp.std(guided, axes, keepdims=True), 1e-6)
  return guided * (rescale * ratio + 1 - rescale)


def _within(
  interval: tuple[float, float] | None, guided: DenoiseFn, plain: DenoiseFn
) -> DenoiseFn:
  """Makes a denoiser that is `guided` within an interval and `plain` elsewhere."""
  if interval is None:
    return guided
  low, high = interval

  def either(x_t, t, context):
    def as_float32(denoise_fn):
      return lambda *inputs: denoise_fn(*inputs).astype(jnp.float32)

    inside = jnp.all((t >= low) & (t <= high))
    branches = as_float32(guided), as_float32(plain)
    return jax.lax.cond(inside, *branches, x_t, t, context)

  return either


def _beside(parts: Sequence[T]) -> T:
  """Joins k trees of arrays [b ...] to [b*k ...], the k of each sample in a row.

  The k of a sample then stay on one device where a batch is split over several.
  """
  return jax.tree.map(
    lambda *leaves: jnp.stack(leaves, axis=1).reshape(-1, *leaves[0].shape[1:]), *parts
  )
