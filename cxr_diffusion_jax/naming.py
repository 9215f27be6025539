"""Looking things up by name: an unknown name is refused, with the nearest names.

check("sampler", "hun", ("euler", "heun")) -> InputError ... did you mean heun?
"""

from collections.abc import Iterable, Mapping
import difflib
import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from cxr_diffusion_jax import errors

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns 'did you mean X or Y?' for an unknown name; '' when nothing is close."""
  close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
  return f"did you mean {' or '.join(close)}?" if close else ""


def check(what: str, name: str, known: Iterable[str]) -> str:
  """Returns `name` if it is known.

  Args:
    what: the flag, config key or kind of object, as the user knows it.

  Raises:
    errors.InputError: the name is unknown; lists all names and the nearest ones.
  """
  known = sorted(known)
  if name not in known:
    raise errors.InputError(
      f"{what} {name!r}", f"one of {', '.join(known)}", nearest(name, known)
    )
  return name


def choose(what: str, name: str, table: Mapping[str, T]) -> T:
  """Returns the table's entry for a name; raises as `check`."""
  return table[check(what, name, table)]


def modules(package: str, *, without: Iterable[str] = ()) -> tuple[str, ...]:
  """Names of the modules and packages directly in a package, sorted.

  Args:
    without: modules of shared code, which are not choices.
  """
  folder = importlib.import_module(package).__path__
  names = {module.name for module in pkgutil.iter_modules(folder)}
  return tuple(sorted(names - set(without)))


def load(
  what: str, package: str, name: str, *, without: Iterable[str] = ()
) -> ModuleType:
  """Imports a module of a package by its name.

  Raises:
    errors.InputError: no such module.
  """
  check(what, name, modules(package, without=without))
  return importlib.import_module(f"{package}.{name}")
