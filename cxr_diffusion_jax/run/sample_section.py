"""The section `sample` of a config: sampler, steps and guidance.

Fields of `SampleSettings` are config keys, flags of the commands and axes of a grid.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
import sys
import typing
from typing import Any

from cxr_diffusion_jax import artifacts, errors, naming

if typing.TYPE_CHECKING:
  from cxr_diffusion_jax.diffusion import sampler as sampler_lib

Option = bool | int | float | str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings:
  """How images are drawn.

  Noise levels sigma / alpha are EDM's sigma for data of standard deviation 1; double
  what is published for data of 0.5.

  Attributes:
    sampler: one of ddim, ddpm, dpm_solver_2m, dpm_solver_2m_sde, euler,
      euler_ancestral, heun, unipc, or another class in `diffusion.samplers`.
    num_steps: steps of the sampler.
    guidance: guidance scale: 1 is the plain condition, 0 none. Or one scale for each
      stream of the condition (3,1.5).
    guidance_interval: noise levels low,high (sigma / alpha) between which to guide;
      elsewhere the plain condition is followed. () for all.
    guidance_rescale: how far guided predictions return to the contrast of unguided
      ones, 0 to 1.
    num_images: images in the picture that training draws.
    spacing: spacing of the times: karras, leading, linspace, logsnr, spectrum, time or
      trailing; "" for time.
    times_shift: above 1 spends more steps on high noise; not with karras, logsnr and
      spectrum.
    eta: share of fresh noise at each step, 0 to 1, for samplers that have it; None for
      the sampler's own.
    sampler_options: more options of the sampler and its times, such as
      churn=40,churn_noise=1.003 (heun), lower_order_final=false (dpm_solver_2m) or
      rho=5 (karras).
    dynamic_threshold: quantile of its absolute values, such as 0.995, to which each
      estimate of the image is clipped and scaled; 0 for none. Codec pixel only.
    clip_x0: bounds low,high of each estimate of the image; () for none. Codec pixel
      only.

  Raises:
    errors.InputError: a value out of range, or values that exclude each other.
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
  sampler_options: str = ""
  dynamic_threshold: float = 0.0
  clip_x0: tuple[float, float] | tuple[()] = ()

  def __post_init__(self):
    most = sys.float_info.max
    text = "two noise levels sigma/alpha, 0 <= low < high"
    checked = {
      "guidance": _scales(self.guidance),
      "guidance_interval": _pair(
        "guidance_interval", self.guidance_interval, text, low=0, high=math.inf
      ),
      "clip_x0": _pair(
        "clip_x0", self.clip_x0, "two numbers, low < high", low=-most, high=most
      ),
    }
    if isinstance(self.sampler_options, Mapping):
      options = sorted(self.sampler_options.items())
      checked["sampler_options"] = ",".join(f"{key}={value}" for key, value in options)
    for name, value in checked.items():
      object.__setattr__(self, name, value)
    for name, expected, right in (
      ("num_steps", "1 or more", lambda value: value >= 1),
      ("num_images", "1 or more", lambda value: value >= 1),
      ("guidance_rescale", "0 to 1", lambda value: 0 <= value <= 1),
      (
        "dynamic_threshold",
        "0 for none, or a quantile below 1, such as 0.995",
        lambda value: 0 <= value < 1,
      ),
      ("times_shift", "above 0", lambda value: 0 < value < math.inf),
    ):
      value = getattr(self, name)
      if not (_is_number(value) and right(value)):
        raise errors.InputError(f"config.sample.{name}={value!r}", expected)
    if self.times_shift != 1 and self.spacing in ("karras", "logsnr", "spectrum"):
      raise errors.InputError(
        f"config.sample.times_shift={self.times_shift:g} with the spacing"
        f" {self.spacing!r}",
        "1: this spacing sets each step itself",
        "leave times_shift out, or take the spacing 'time'",
      )
    _check_eta(self.sampler, self.eta)
    make_sampler(self)

  @property
  def guidance_text(self) -> str:
    """The scale, or the scales of the streams with commas: for titles and labels."""
    composed = isinstance(self.guidance, tuple)
    return ",".join(f"{s:g}" for s in (self.guidance if composed else [self.guidance]))


class Knob(typing.NamedTuple):
  """A setting that a call may change: a flag, or an axis of a grid.

  Attributes:
    name: of the flag, and of the field of `SampleSettings`.
    many: whether it takes several numbers.
  """

  name: str
  kind: type
  many: bool
  default: object


def knobs() -> Iterator[Knob]:
  """Yields every setting but those of training alone."""
  for field in dataclasses.fields(SampleSettings):
    if field.name != "num_images":
      text = str(field.type)
      kind = next(kind for kind in (str, float, int) if kind.__name__ in text)
      yield Knob(field.name, kind, "tuple" in text, field.default)


def make_sampler(
  settings: SampleSettings, *, start: float = 1.0, mode_variance: float = 0.0
) -> "sampler_lib.Sampler":
  """Builds the sampler that is set.

  Args:
    start: the first time, in (0, 1]; see `diffusion.times.Times`.
    mode_variance: of the codec, for the spacing 'spectrum'; 0 where it is unknown.

  Raises:
    errors.InputError: an unknown name or option.
  """
  from cxr_diffusion_jax.diffusion import sampler as sampler_lib
  from cxr_diffusion_jax.diffusion import times as times_lib

  method = sampler_lib.load(settings.sampler)
  own = {} if settings.eta is None else {"eta": settings.eta}
  times = {
    "spacing": settings.spacing or "time",
    "shift": settings.times_shift,
    "start": start,
    "variance": mode_variance,
  }
  of_method, of_times = _fields(method, ("eta",)), _fields(times_lib.Times, times)
  options = _read_options(settings.sampler_options, of_method | of_times)
  for name, value in options.items():
    (own if name in of_method else times)[name] = value
  return sampler_lib.Sampler(
    method=method(**own),
    num_steps=settings.num_steps,
    times=times_lib.Times(**times),
    clip_x0=settings.clip_x0 or None,
    dynamic_threshold=settings.dynamic_threshold or None,
  )


def _fields(
  kind: type, but: Sequence[str] | artifacts.JsonMapping
) -> dict[str, Option]:
  """Field -> default of a dataclass."""
  fields = dataclasses.fields(kind)
  return {field.name: field.default for field in fields if field.name not in but}


def _read_options(text: str, known: Mapping[str, Option]) -> dict[str, Option]:
  """Reads NAME=VALUE,... as values of the types of the known options' defaults."""
  options: dict[str, Option] = {}
  for part in filter(None, text.split(",")):
    name, _, value = part.strip().partition("=")
    kind = type(known[naming.check("config.sample.sampler_options", name, known)])
    try:
      read = {"true": True, "false": False}[value.lower()] if kind is bool else value
      options[name] = kind(read)
    except (KeyError, ValueError) as error:
      raise errors.InputError(
        f"config.sample.sampler_options: {part!r}",
        f"{name}=true or false" if kind is bool else f"a value of type {kind.__name__}",
      ) from error
  return options


def evaluations(settings: SampleSettings, num_streams: int, weak: bool) -> int:
  """Evaluations of a network that one image costs, an interval not counted.

  Args:
    weak: with autoguidance, half of them are of the weaker parameters.

  Raises:
    ValueError: scales for another number of streams.
  """
  scales = settings.guidance
  scales = scales if isinstance(scales, tuple) else (scales,)
  if len(scales) not in ((1,) if weak else (1, num_streams)):
    raise ValueError(f"{len(scales)} scales for {num_streams} streams, weak: {weak}")
  from cxr_diffusion_jax.diffusion import guidance as guidance_lib

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


def _pair(key: str, given: Any, text: str, *, low: float, high: float) -> tuple:
  """Checks two numbers within bounds, in order; () for none."""
  ends = tuple(given) if isinstance(given, list | tuple) else (given,)
  numbers = len(ends) == 2 and all(_is_number(end) for end in ends)
  if ends and not (numbers and low <= ends[0] < ends[1] <= high):
    raise errors.InputError(f"config.sample.{key}={given!r}", f"{text}, or () for none")
  return ends


def _check_eta(sampler: str, eta: Any) -> None:
  """Checks the share of fresh noise, and that the sampler has one."""
  from cxr_diffusion_jax.diffusion import sampler as sampler_lib

  sampler_lib.load(sampler)
  if eta is None:
    return
  if not (_is_number(eta) and 0 <= eta <= 1):
    raise errors.InputError(f"config.sample.eta={eta!r}", "0 to 1, or None")
  methods = sampler_lib.methods()
  able = [name for name in methods if "eta" in _fields(methods[name], ())]
  if sampler not in able:
    raise errors.InputError(
      f"config.sample.eta={eta:g} with the sampler {sampler!r}, which has none",
      f"eta with one of {able}",
      "leave eta out, or take one of these samplers",
    )


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
