"""The section `codec` of a config: what makes the codec once the records are known.

config.codec --build--> (statistics of the records) -> Codec
"""

from collections.abc import Callable, Mapping
from typing import Any

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.training import sections


def build(
  section: Mapping[str, Any],
) -> Callable[[Mapping[str, Any]], codec_lib.Codec]:
  section = dict(section)
  name = section.pop("name", "")
  if name == "pixel":
    sections.check_keys("config.codec", section, ())
    return lambda statistics: codec_lib.Pixel()
  if name != "haar":
    raise errors.InputError(f"config.codec.name={name!r}", "pixel or haar")
  sections.check_keys("config.codec", section, ("levels", "loss_power"))
  levels = section.get("levels", 2)

  def make(statistics: Mapping[str, Any]) -> codec_lib.Codec:
    # Before the records are read, only the shapes are of interest.
    unit = {"mean": (0.0,) * 4**levels, "std": (1.0,) * 4**levels}
    known = statistics.get("haar", {str(levels): unit})
    if str(levels) not in known:
      raise errors.InputError(
        f"config.codec.levels={levels}", f"one of {', '.join(known)}, as measured"
      )
    return codec_lib.Haar(
      levels=levels,
      mean=tuple(known[str(levels)]["mean"]),
      std=tuple(known[str(levels)]["std"]),
      loss_power=section.get("loss_power", 1.0),
    )

  return make
