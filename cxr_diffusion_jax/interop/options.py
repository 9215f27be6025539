"""Options in a config.json of diffusers: read, fixed to what is implemented, or inert.

  config.json --resolve(defaults, fixed, inert)--> a value for each key of `defaults`

An option is never passed over: one that is neither read nor known to change nothing
must have the one value that this project implements.
"""

from collections.abc import Mapping
from typing import Any

from cxr_diffusion_jax import artifacts, errors


def resolve(
  config: artifacts.JsonMapping,
  *,
  defaults: artifacts.JsonMapping,
  fixed: Mapping[str, tuple[Any, ...]],
  inert: tuple[str, ...],
  where: str,
) -> artifacts.Json:
  """Returns the options that are read, checked for those that are not.

  Args:
    config: of the file.
    defaults: diffusers' own, for each option that is read.
    fixed: the values at which this project does what diffusers does, the default
      first.
    inert: options that change no number in float32.
    where: the file, for messages.

  Raises:
    errors.InputError: options that are not implemented, all of them named.
  """
  wrong = []
  for key, value in sorted(config.items()):
    if key in fixed:
      if same_everywhere(value) not in fixed[key]:
        wrong.append(f"{key}={value!r} (only {fixed[key][0]!r} is implemented)")
    elif key not in defaults and key not in inert and value not in (None, False):
      # What a later version of diffusers added, and this model switched on.
      wrong.append(f"{key}={value!r} (unknown)")
  if wrong:
    raise not_implemented(where, ", ".join(wrong))
  return {key: config.get(key, default) for key, default in defaults.items()}


def header(class_name: str, fixed: Mapping[str, tuple[Any, ...]]) -> artifacts.Json:
  """The entries of every config.json of a class: its name and its fixed options."""
  values = {key: accepted[0] for key, accepted in fixed.items()}
  # The version of diffusers that has these options.
  return {"_class_name": class_name, "_diffusers_version": "0.35.2", **values}


def not_implemented(where: str, what: str) -> errors.InputError:
  """The error of an option that cannot be followed."""
  return errors.InputError(
    f"options in {where} that are not implemented: {what}",
    fix="use a model without them; Stable Diffusion 1.x and 2.x have none",
  )


def same_everywhere(value: Any) -> Any:
  """The value of a list of equal values, one a level; anything else unchanged."""
  if not isinstance(value, list | tuple) or not value:
    return value
  first, *others = value
  return first if all(entry == first for entry in others) else value


def each_level(value: Any) -> Any:
  """A list as a tuple, or as its one value where all are equal."""
  value = same_everywhere(value)
  return tuple(value) if isinstance(value, list) else value
