"""The help of a command: its flags in groups, and the keys of a config.

flags, groups --text--> --help;  config, docstrings --> --config FILE --help
"""

from collections.abc import Callable, Iterator
import contextlib
import inspect
import re
import shutil
import textwrap
import typing

from absl import flags

if typing.TYPE_CHECKING:
  import ml_collections

# Flag -> the title of its group.
_GROUPS: dict[str, str] = {}

_PLACEHOLDERS = {
  "integer": "N",
  "int": "N",
  "float": "X",
  "string": "TEXT",
  "comma separated list of strings": "A,B",
  "multi string": "TEXT",
  "config object": "FILE[:SIZE[,RECIPE]]",
}


@contextlib.contextmanager
def group(title: str) -> Iterator[None]:
  """Assigns the flags defined inside the context to a group of the help."""
  before = set(flags.FLAGS)
  yield
  for name in set(flags.FLAGS) - before:
    _GROUPS[name] = title


def is_wanted(argv: list[str]) -> bool:
  """Returns whether the arguments ask for help."""
  given = argv[: argv.index("--")] if "--" in argv else argv
  return any(text in _HELP for text in given)


def text(description: str, argv: list[str]) -> str:
  """Returns the help.

  Args:
    argv: the command's arguments; with --config, the config's keys are listed too.
  """
  config = _config(argv)
  if config is not None:
    from cxr_diffusion_jax.cli import config_help

    return config_help.text(config)
  groups: dict[str, list[flags.Flag]] = {}
  for name in flags.FLAGS:
    if name in _GROUPS:
      groups.setdefault(_GROUPS[name], []).append(flags.FLAGS[name])
  blocks = [description.strip()]
  for title in dict.fromkeys(title for title in _GROUPS.values() if title in groups):
    lines = [entry(_usage(flag), _meaning(flag)) for flag in groups[title]]
    blocks.append("\n".join([f"{title}:", *lines]))
  return "\n\n".join(blocks)


def entry(name: str, meaning: str) -> str:
  """Returns a name and its meaning in two columns, wrapped to the terminal."""
  column = 28
  width = min(max(shutil.get_terminal_size().columns, 60), 100)
  lines = textwrap.wrap(meaning, width - column) or [""]
  head = f"  {name}"
  first = head.ljust(column) if len(head) < column else f"{head}\n{' ' * column}"
  return first + f"\n{' ' * column}".join(lines)


def meanings(constructor: Callable[..., object]) -> dict[str, str]:
  """Returns what a docstring says about each argument or attribute."""
  doc = inspect.getdoc(constructor) or ""
  block = re.search(r"^(?:Args|Attributes):\n((?:(?:  .*)?\n)*(?:  .*)?)", doc, re.M)
  listed = block[1] if block else ""
  entries = re.findall(r"^  (\w+): ((?:.|\n(?!  \w))*)", listed, re.M)
  return {name: " ".join(text.split()) for name, text in entries}


_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")


def _usage(flag: flags.Flag) -> str:
  choices = getattr(flag.parser, "enum_values", None)
  if flag.boolean:
    return f"--[no]{flag.name}"
  if choices:
    return f"--{flag.name} {'|'.join(choice for choice in choices if choice)}"
  return f"--{flag.name} {_PLACEHOLDERS.get(flag.flag_type(), 'VALUE')}"


def _meaning(flag: flags.Flag) -> str:
  notes = []
  if any("other than None" in validator.message for validator in flag.validators):
    notes.append("Required.")
  if flag.flag_type().startswith("multi"):
    notes.append("May be repeated.")
  if flag.default not in (None, "", [], False):
    default = flag.default
    shown = ",".join(default) if isinstance(default, list) else default
    notes.append(f"Default: {shown}.")
  # Absl prepends the choices and appends a remark on repetition.
  own = flag.help.split(";\n    repeat this option")[0].split(">: ")[-1]
  return " ".join([own[:1].upper() + own[1:], *notes])


def _config(argv: list[str]) -> "ml_collections.ConfigDict | None":
  """Parses the arguments for their config alone; None if there is none."""
  if "config" not in flags.FLAGS:
    return None
  # Other required flags may be missing; they are checked after parsing.
  with contextlib.suppress(flags.IllegalFlagValueError):
    flags.FLAGS([item for item in argv if item not in _HELP])
  return flags.FLAGS["config"].value
