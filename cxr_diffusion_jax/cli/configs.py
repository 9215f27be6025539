"""The flag --config: a file, or the bare name of a config of this project.

--config elixr_c:tiny --resolve_flag--> configs/elixr_c.py:tiny --> ConfigDict
"""

from collections.abc import Sequence
import pathlib
import runpy

from absl import flags
import ml_collections
from ml_collections import config_flags

from cxr_diffusion_jax import errors, naming

# Next to the package, both in a checkout and when installed.
FOLDER = pathlib.Path(__file__).parents[2] / "configs"

# Shared by other configs; not configs themselves.
_SHARED = ("default", "networks", "training")


def define_from_step() -> "flags.FlagHolder[int | None]":
  """The flag `--from_step` of commands that train."""
  return flags.DEFINE_integer(
    "from_step",
    None,
    "Checkpoint to go on from, where the learning rate and clip_norm may change; later"
    " ones are moved to WORKDIR/set_aside. By default the newest.",
    lower_bound=0,
  )


def define() -> flags.FlagHolder:
  """Defines --config, which is required."""
  holder = config_flags.DEFINE_config_file(
    "config",
    None,
    "A config by name or file, with its size and recipe: elixr_c,"
    " configs/elixr_c.py:tiny, phantom:clip_text. --config.KEY=VALUE changes a key;"
    " --config FILE --help lists the keys.",
  )
  flags.mark_flag_as_required("config")
  return holder


def of_sizes(
  holder: flags.FlagHolder, sizes: Sequence[str]
) -> dict[str, ml_collections.ConfigDict]:
  """Returns --config and other sizes of the same file, with the same changes of keys.

  Raises:
    errors.InputError: there is no such size.
  """
  flag = flags.FLAGS["config"]
  path, _, first = config_flags.get_config_filename(flag).partition(":")
  configs = {first or "default": holder.value}
  for size in sizes:
    try:
      config = runpy.run_path(path)["get_config"](size)
    except ValueError as error:
      raise errors.InputError(str(error)) from error
    config.update_from_flattened_dict(config_flags.get_override_values(flag))
    configs[size] = config
  return configs


def unknown_key(argv: Sequence[str]) -> errors.InputError | None:
  """Returns the complaint about the first --config.KEY that the config lacks, if any.

  Args:
    argv: what `resolve_flag` returns.
  """
  from cxr_diffusion_jax.run import compatibility

  start = "--config="
  file = [text for text in argv if text.startswith(start)][-1].removeprefix(start)
  path, _, choice = file.partition(":")
  config = runpy.run_path(path)["get_config"](*filter(None, [choice]))
  known = [*compatibility.flatten(config.to_dict())]
  for text in argv:
    key = text.partition("=")[0].partition("[")[0].removeprefix("--config.")
    if text.startswith("--config.") and key not in known:
      return errors.InputError(
        f"no key config.{key} in {path}",
        "one of those that --config FILE --help lists",
        naming.nearest(key, known),
      )
  return None


def names() -> list[str]:
  """Returns the names of this project's configs."""
  return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in _SHARED)


def resolve_flag(argv: list[str]) -> list[str]:
  """Returns the arguments with --config=FILE, an existing one, for any form of it.

  Raises:
    errors.InputError: there is no such config.
  """
  result: list[str] = []
  rest = iter(argv)
  for text in rest:
    name, equals, value = text.partition("=")
    if text == "--":
      return [*result, text, *rest]
    if name in ("--config", "-config"):
      value = value if equals else next(rest, "")
      result.append(f"--config={_resolve(value)}" if value else text)
    else:
      result.append(text)
  return result


def _resolve(value: str) -> str:
  given, colon, choice = value.partition(":")
  path = pathlib.Path(given)
  bare = path.suffix == "" and len(path.parts) == 1
  for candidate in (path, FOLDER / (f"{given}.py" if bare else path.name)):
    if candidate.is_file():
      return f"{candidate}{colon}{choice}"
  raise errors.InputError(
    f"no config {given}",
    f"a file, or one of {', '.join(names())}",
    naming.nearest(path.stem, names()),
  )
