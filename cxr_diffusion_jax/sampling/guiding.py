"""Builds the guidance of a run: by condition, by stream, or by an earlier checkpoint.

settings, params, scale --make_guide--> guided denoise_fn; noise level --> time
"""

from collections.abc import Callable, Sequence
import math

from absl import logging
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.diffusion import guidance as guidance_lib
from cxr_diffusion_jax.diffusion import schedule as schedule_lib
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import sample_section


def make_guide(
  denoiser: denoiser_lib.Denoiser, settings: sample_section.SampleSettings
) -> Callable[..., types.DenoiseFn]:
  """Builds (params, scale, negative, weak_params) -> denoiser; see GenerateFn."""
  interval = interval_times(settings, denoiser.process.schedule)
  limits = {"interval": interval, "rescale": settings.guidance_rescale}
  num_streams, own = len(denoiser.conditioner.streams), settings.guidance
  # Each drops every stream but one, in the whole batch.
  keep_fns = [
    lambda context, row=row: conditioning.drop_context(context, jnp.asarray(row[None]))
    for row in ~np.eye(num_streams, dtype=bool)
  ]

  def guide(params, scale, negative, weak_params) -> types.DenoiseFn:
    denoise_fn = denoiser.denoise_fn(params)
    _check_extra(settings, scale, negative, weak_params)
    unwanted = None if negative is None else denoiser.conditioner(negative)

    def drop_fn(context):
      return conditioning.drop_all(context) if unwanted is None else unwanted

    if isinstance(own, tuple):
      assert scale is None, "only a single scale can be replaced"
      return guidance_lib.composed(denoise_fn, drop_fn, keep_fns, own, **limits)
    scale = own if scale is None else scale
    if weak_params is not None:
      weak_fn = denoiser.denoise_fn(weak_params)
      return guidance_lib.autoguidance(denoise_fn, weak_fn, scale, **limits)
    return guidance_lib.classifier_free(denoise_fn, drop_fn, scale, **limits)

  return guide


def check_codec(
  settings: sample_section.SampleSettings, codec: codec_lib.Codec
) -> None:
  """Raises errors.InputError if pixel bounds are set for a latent."""
  if isinstance(codec, codec_lib.Pixel):
    return
  for name in ("clip_x0", "dynamic_threshold"):
    if getattr(settings, name):
      raise errors.InputError(
        f"config.sample.{name}={getattr(settings, name)!r} with the codec "
        f"{type(codec).__name__.lower()!r}",
        "none: only pixels have bounds",
        "leave it out, or lower guidance or raise guidance_rescale for less contrast",
      )


def check_streams(
  settings: sample_section.SampleSettings, streams: Sequence[types.StreamSpec]
) -> None:
  """Raises errors.InputError unless there is one scale, or one for each stream."""
  scales = settings.guidance
  if isinstance(scales, tuple) and len(scales) != len(streams):
    raise errors.InputError(
      f"config.sample.guidance={settings.guidance_text}: {len(scales)} scales",
      f"one number, or {len(streams)}: " + ", ".join(stream.name for stream in streams),
    )


def interval_times(
  settings: sample_section.SampleSettings, schedule: schedule_lib.Schedule
) -> tuple[float, float] | None:
  """Returns the times at which sigma / alpha is in the guidance interval.

  Returns:
    (low, high) in [0, 1], or None for everywhere.
  """
  if not settings.guidance_interval:
    return None

  def time(level: float) -> float:
    if level == 0 or math.isinf(level):
      return float(level > 0)
    return float(schedule.time_of_logsnr(-2 * math.log(level)))

  low, high = settings.guidance_interval
  return time(low), time(high)


def _check_extra(
  settings: sample_section.SampleSettings,
  scale: types.Array | None,
  negative: types.Batch | None,
  weak_params: types.Params | None,
) -> None:
  """Refuses incompatible settings; warns about those without effect."""
  shown = f"config.sample.guidance={settings.guidance_text}"
  if weak_params is not None and isinstance(settings.guidance, tuple):
    raise errors.InputError(
      f"{shown} with an earlier checkpoint", "one number: autoguidance has one scale"
    )
  if weak_params is not None and negative is not None:
    raise errors.InputError(
      "a negative condition and an earlier checkpoint to guide away from", "one of them"
    )
  given = "negative condition" if negative is not None else "earlier checkpoint"
  neither = negative is None and weak_params is None
  if not neither and scale is None and settings.guidance == 1:
    logging.warning("%s leaves the %s without effect", shown, given)
