"""How images are drawn: sampler, steps and guidance, as a config says it, checked.

config.sample --SampleSettings--> generate; noise level sigma / alpha --times--> t
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.diffusion import guidance as guidance_lib
from cxr_diffusion_jax.diffusion import sampler as sampler_lib
from cxr_diffusion_jax.diffusion import schedule as schedule_lib


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

  Raises:
    errors.InputError: a value out of range.
  """

  sampler: str = "euler"
  num_steps: int = 25
  guidance: float | tuple[float, ...] = 2.0
  guidance_interval: tuple[float, float] | tuple[()] = ()
  guidance_rescale: float = 0.0
  num_images: int = 8

  def __post_init__(self):
    sampler_lib.load(self.sampler)
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

  @property
  def guidance_text(self) -> str:
    """The scale, or the scales of the streams with commas: for titles and labels."""
    composed = isinstance(self.guidance, tuple)
    return ",".join(f"{s:g}" for s in (self.guidance if composed else [self.guidance]))


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
  return settings.num_steps * guidance_lib.num_evaluations(scales)


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


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
