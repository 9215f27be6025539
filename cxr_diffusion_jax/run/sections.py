"""Builds objects from config sections: the keys are a constructor's arguments.

config.SECTION --check_keys--> make(constructor, values); a wrong key names its nearest
"""

from collections.abc import Callable, Mapping
import inspect
from typing import Any, TypeVar

import ml_collections

from cxr_diffusion_jax import artifacts, errors, naming

T = TypeVar("T")


def make(
  constructor: Callable[..., T],
  section: str,
  values: artifacts.JsonMapping,
  *,
  given: artifacts.JsonMapping | None = None,
  also: tuple[str, ...] = (),
) -> T:
  """Calls a constructor with a section's keys and values as arguments.

  Args:
    given: arguments that follow from other sections.
    also: further keys of the section, read elsewhere.

  Raises:
    errors.InputError: a key that is no argument, or an argument without a key.
  """
  given = given or {}
  signature = inspect.signature(constructor)
  names = tuple(
    name
    for name in signature.parameters
    if name not in ("parent", "kwargs") and name not in given
  )
  check_keys(f"config.{section}", values, names, also)
  try:
    signature.bind(**values, **given)
  except TypeError as error:
    raise errors.InputError(f"config.{section}: {error}") from error
  return constructor(**values, **given)


def check_keys(
  prefix: str,
  values: artifacts.JsonMapping,
  known: tuple[str, ...],
  also: tuple[str, ...] = (),
) -> None:
  """Raises errors.InputError for a key that is not known, naming the nearest ones."""
  known = (*known, *also)
  for key in values:
    if key not in known:
      raise errors.InputError(
        f"unknown key {prefix}.{key}",
        f"one of {', '.join(sorted(known)) or 'none'}",
        naming.nearest(key, known),
      )


def plain(config: object) -> Any:
  """Returns a config as dicts, lists and scalars."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  if isinstance(config, Mapping):
    return {key: plain(value) for key, value in config.items()}
  if isinstance(config, list | tuple):
    return [plain(value) for value in config]
  return config
