"""Builds objects from config sections: the keys are a constructor's arguments.

config.SECTION --check_keys--> make(constructor, values); a wrong key names its nearest
"""

from collections.abc import Callable, Mapping
import difflib
import inspect
from typing import Any, TypeVar

import ml_collections

from cxr_diffusion_jax import artifacts, errors

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
    section: its name, for messages.
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
      near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
      raise errors.InputError(
        f"unknown key {prefix}.{key}",
        f"one of {', '.join(sorted(known)) or 'none'}",
        f"did you mean {', '.join(near)}?" if near else "",
      )


def plain(config: Any) -> Any:
  """Returns a config as dicts, lists and scalars."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  if isinstance(config, Mapping):
    return {key: plain(value) for key, value in config.items()}
  if isinstance(config, list | tuple):
    return [plain(value) for value in config]
  return config
