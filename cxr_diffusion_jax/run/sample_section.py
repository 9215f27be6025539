"""How images are drawn: sampler, steps and guidance, as a config says it, checked.

config.sample --SampleSettings--> Sampler; noise level sigma / alpha --times--> t
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.diffusion import guidance as guidance_lib
from cxr_diffusion_jax.diffusion import sampler as sampler_lib
from cxr_diffusion_jax.diffusion import schedule as schedule_lib
from cxr_diffusion_jax.diffusion import times as times_lib
from cxr_diffusion_jax.models import codec as codec_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings:
  """How images are drawn.

  Attributes:
    sampler: name of a sampler of `diffusion.sampler`.
    num_steps: its steps.
    guidance: scale of guidance by the whole condition: 1 is the plain condition, 0
      none. Or one scale for each stream of the condition, which are then composed; a
      list of one is that number.
    guidance_interval: (low, high) noise levels sigma / alpha within which to guide, 0
      <= low < high <= infinity, or () for all. Elsewhere the plain condition alone is
      followed. It is EDM's sigma for data of standard deviation 1; what is published
      for data of 0.5 is to be doubled.
    guidance_rescale: in [0, 1], how far guided predictions are brought back to the
      contrast of those that they guide.
    num_images: images in the picture that training makes at intervals.
    spacing: of the sampler's times, one of `diffusion.times`; "" for 'time'.
    times_shift: warps them; above 1 spends more steps on high noise. Not with the
      spacings 'karras' and 'logsnr', which say where each step is.
    eta: how much of the noise is made anew at each step, for samplers that can; None
      for the sampler's own.
    dynamic_threshold: quantile of its absolute values that each estimate of the image
      is clipped to and divided by where it is above 1, such as 0.995; 0 for none. For
      the codec 'pixel' alone.
    clip_x0: (low, high) that each estimate of the image is clipped to, or () for none.
      For the codec 'pixel' alone.

  Raises:
    errors.InputError: a value out of range, or values that do not go together.
  """

  sampler: str = "euler"
  num_steps: int = 25
  guidance: float | tuple[float, ...] = 2.0
  guidance_interval: tuple[float, float] | tuple[()] = ()
  guidance_rescale: float = 0.0
  num_images: int = 8
  spacing: str = ""
  times_shift: float = 1.0
  eta: float | None = None
  dynamic_threshold: float = 0.0
  clip_x0: tuple[float, float] | tuple[()] = ()

  def __post_init__(self):
    for name in ("num_steps", "num_images"):
      if getattr(self, name) < 1:
        raise errors.InputError(
          f"config.sample.{name}={getattr(self, name)}", "1 or more"
        )
    object.__setattr__(self, "guidance", _scales(self.guidance))
    object.__setattr__(self, "guidance_interval", _interval(self.guidance_interval))
    if not (_is_number(self.guidance_rescale) and 0 <= self.guidance_rescale <= 1):
      raise errors.InputError(
        f"config.sample.guidance_rescale={self.guidance_rescale!r}", "0 to 1"
      )
    object.__setattr__(self, "clip_x0", _bounds(self.clip_x0))
    if not (_is_number(self.dynamic_threshold) and 0 <= self.dynamic_threshold < 1):
      raise errors.InputError(
        f"config.sample.dynamic_threshold={self.dynamic_threshold!r}",
        "0 for none, or a quantile below 1, such as 0.995",
      )
    _check_eta(self.sampler, self.eta)
    _check_times(self.spacing, self.times_shift)

  @property
  def guidance_text(self) -> str:
    """The scale, or the scales of the streams with commas: for titles and labels."""
    composed = isinstance(self.guidance, tuple)
    return ",".join(f"{s:g}" for s in (self.guidance if composed else [self.guidance]))


def make_sampler(
  settings: SampleSettings, *, start: float = 1.0
) -> sampler_lib.Sampler:
  """Builds the sampler that is set.

  Args:
    settings: sampler, steps and what changes them.
    start: the first time, in (0, 1]; see `diffusion.times.Times`.
  """
  given = {} if settings.eta is None else {"eta": settings.eta}
  return sampler_lib.Sampler(
    method=sampler_lib.load(settings.sampler)(**given),
    num_steps=settings.num_steps,
    times=times_lib.Times(
      spacing=settings.spacing or "time", shift=settings.times_shift, start=start
    ),
    clip_x0=settings.clip_x0 or None,
    dynamic_threshold=settings.dynamic_threshold or None,
  )


def check_codec(settings: SampleSettings, codec: codec_lib.Codec) -> None:
  """Raises errors.InputError where bounds of pixels are asked for in a latent."""
  if isinstance(codec, codec_lib.Pixel):
    return
  for name in ("clip_x0", "dynamic_threshold"):
    if getattr(settings, name):
      raise errors.InputError(
        f"config.sample.{name}={getattr(settings, name)!r} with the codec "
        f"{type(codec).__name__.lower()!r}",
        "none: what is denoised has no bounds there, only pixels have",
        "leave it out, or lower guidance or raise guidance_rescale for less contrast",
      )


def check_streams(
  settings: SampleSettings, streams: Sequence[types.StreamSpec]
) -> None:
  """Raises errors.InputError unless there is one scale, or one for each stream."""
  scales = settings.guidance
  if isinstance(scales, tuple) and len(scales) != len(streams):
    raise errors.InputError(
      f"config.sample.guidance={settings.guidance_text}: {len(scales)} scales",
      f"one number, or {len(streams)}: " + ", ".join(stream.name for stream in streams),
    )


def interval_times(
  settings: SampleSettings, schedule: schedule_lib.Schedule
) -> tuple[float, float] | None:
  """The times within which to guide: where sigma / alpha is in the interval.

  Args:
    settings: with the interval in noise levels.
    schedule: logsnr = -2 log(level) decreases with t, so low levels are early times.

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


def evaluations(settings: SampleSettings, num_streams: int, weak: bool) -> int:
  """Evaluations of a network that one image costs, an interval not counted.

  Args:
    settings: sampler, steps and guidance.
    num_streams: of the condition.
    weak: with autoguidance, half of them are of the weaker parameters.

  Raises:
    ValueError: as many scales as the condition does not have streams.
  """
  scales = settings.guidance
  scales = scales if isinstance(scales, tuple) else (scales,)
  if len(scales) not in ((1,) if weak else (1, num_streams)):
    raise ValueError(f"{len(scales)} scales for {num_streams} streams, weak: {weak}")
  steps = make_sampler(settings).num_evaluations
  return steps * guidance_lib.num_evaluations(scales)


def _scales(given: Any) -> float | tuple[float, ...]:
  """Checks scales; a flag of a list brings one number as a list of one."""
  scales = tuple(given) if isinstance(given, list | tuple) else (given,)
  if not scales or not all(_is_number(s) and math.isfinite(s) for s in scales):
    raise errors.InputError(
      f"config.sample.guidance={given!r}",
      "a finite number, or one for each stream of the condition",
    )
  return scales if len(scales) > 1 else scales[0]


def _interval(given: Any) -> tuple[float, ...]:
  """Checks an interval of noise levels."""
  ends = tuple(given) if isinstance(given, list | tuple) else (given,)
  numbers = all(_is_number(end) for end in ends)
  if ends and not (numbers and len(ends) == 2 and 0 <= ends[0] < ends[1]):
    raise errors.InputError(
      f"config.sample.guidance_interval={given!r}",
      "two noise levels sigma/alpha, 0 <= low < high, or () for all",
      "1e9 is as good as no upper end",
    )
  return ends


def _bounds(given: Any) -> tuple[float, ...]:
  """Checks what estimates are clipped to."""
  ends = tuple(given) if isinstance(given, list | tuple) else (given,)
  numbers = all(_is_number(end) and math.isfinite(end) for end in ends)
  if ends and not (numbers and len(ends) == 2 and ends[0] < ends[1]):
    raise errors.InputError(
      f"config.sample.clip_x0={given!r}", "two numbers, low < high, or () for none"
    )
  return ends


def _check_eta(sampler: str, eta: Any) -> None:
  """Checks the fresh noise, and that the sampler is one that has it."""
  method = sampler_lib.load(sampler)()
  if eta is None:
    return
  if not (_is_number(eta) and 0 <= eta <= 1):
    raise errors.InputError(f"config.sample.eta={eta!r}", "0 to 1, or None")
  if "eta" not in {field.name for field in dataclasses.fields(method)}:
    able = [
      name
      for name in sampler_lib.names()
      if "eta" in {f.name for f in dataclasses.fields(sampler_lib.load(name)())}
    ]
    raise errors.InputError(
      f"config.sample.eta={eta:g} with the sampler {sampler!r}, which has none",
      f"eta with one of {able}",
      "leave eta out, or take one of these samplers",
    )


def _check_times(spacing: Any, shift: Any) -> None:
  """Checks the spacing and its shift."""
  if spacing:
    times_lib.check_spacing(spacing)
  if not (_is_number(shift) and 0 < shift < math.inf):
    raise errors.InputError(f"config.sample.times_shift={shift!r}", "above 0")
  if shift != 1 and spacing in ("karras", "logsnr"):
    raise errors.InputError(
      f"config.sample.times_shift={shift:g} with the spacing {spacing!r}",
      "1 with it: this spacing says itself where the steps are",
      "leave times_shift out, or take the spacing 'time'",
    )


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
