"""The section `diffusion` of a config: the path, the times, the loss.

config.diffusion --build--> fields of `step.Objective`
"""

from collections.abc import Mapping
from typing import Any

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import loss as loss_lib
from cxr_diffusion_jax.diffusion import process as process_lib
from cxr_diffusion_jax.diffusion import schedule as schedule_lib
from cxr_diffusion_jax.diffusion import time_sampler as time_sampler_lib
from cxr_diffusion_jax.training import sections


def build(section: Mapping[str, Any]) -> dict[str, Any]:
  modules = {
    "schedule": schedule_lib,
    "time_sampler": time_sampler_lib,
    "weighting": loss_lib,
  }
  sections.check_keys("config.diffusion", section, ("prediction", *modules))
  missing = [name for name in ("prediction", *modules) if name not in section]
  if missing:
    raise errors.InputError(f"config.diffusion without {', '.join(missing)}")
  parts = {}
  for name, module in modules.items():
    part = dict(section[name])
    make = module.load(part.pop("name", ""))
    parts[name] = sections.make(make, f"diffusion.{name}", part, also=("name",))
  process = process_lib.Process(
    schedule=parts.pop("schedule"), prediction=section["prediction"]
  )
  return {"process": process, **parts}
