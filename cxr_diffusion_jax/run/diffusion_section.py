"""The section `diffusion` of a config: the noise process, the times, the loss."""

from typing import Any

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.diffusion import loss as loss_lib
from cxr_diffusion_jax.diffusion import preconditioning as preconditioning_lib
from cxr_diffusion_jax.diffusion import process as process_lib
from cxr_diffusion_jax.diffusion import schedule as schedule_lib
from cxr_diffusion_jax.diffusion import time_sampler as time_sampler_lib
from cxr_diffusion_jax.run import sections


def build(section: artifacts.JsonMapping) -> artifacts.Json:
  """Reads the section.

  Args:
    section: `prediction`, and a section with a `name` for each part; older configs
      have no `preconditioning`.

  Returns:
    `process`, `preconditioning`, `time_sampler` and `weighting`.

  Raises:
    errors.InputError: an unknown key, a missing one, a value out of range, or
      parts that are incompatible.
  """
  modules = {
    "preconditioning": preconditioning_lib,
    "schedule": schedule_lib,
    "time_sampler": time_sampler_lib,
    "weighting": loss_lib,
  }
  sections.check_keys("config.diffusion", section, ("prediction", *modules))
  section = {"preconditioning": {"name": "none"}, **section}
  missing = [name for name in ("prediction", *modules) if name not in section]
  if missing:
    raise errors.InputError(f"config.diffusion without {', '.join(missing)}")
  parts = {name: _part(name, module, section) for name, module in modules.items()}
  process = process_lib.Process(
    schedule=parts.pop("schedule"), prediction=section["prediction"]
  )
  parts["preconditioning"].check(process)
  _check_data_size(parts["preconditioning"], parts["weighting"])
  return {"process": process, **parts}


def _part(name: str, module: Any, section: artifacts.JsonMapping) -> Any:
  values = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in section[name].items()
  }
  chosen = values.pop("name", "")
  make = module.load(chosen)
  try:
    return sections.make(make, f"diffusion.{name}", values, also=("name",))
  except errors.InputError as error:
    if not str(error).startswith("unknown key"):
      raise
    raise errors.InputError(
      f"config.diffusion.{name}.name={chosen!r}: {error}",
      fix="another name takes other keys; a recipe sets all that go together:"
      " --config configs/PATH.py:SIZE,RECIPE",
    ) from error


def _check_data_size(preconditioning: Any, weighting: Any) -> None:
  both = isinstance(preconditioning, preconditioning_lib.EDM) and isinstance(
    weighting, loss_lib.EDM
  )
  if both and preconditioning.sigma_data != weighting.sigma_data:
    raise errors.InputError(
      f"config.diffusion.preconditioning.sigma_data={preconditioning.sigma_data} and"
      f" weighting.sigma_data={weighting.sigma_data}",
      "one number, the standard deviation of the data",
    )
