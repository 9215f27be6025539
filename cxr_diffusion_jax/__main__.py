"""The entry point of all commands: `cxr-diffusion COMMAND` runs a main of this package.

cxr-diffusion sample --workdir ... = python -m cxr_diffusion_jax.sample --workdir ...
"""

import ast
import pathlib
import runpy
import sys

# Command -> its module, in the order of use in a project.
COMMANDS = {
  "prepare": "prepare",
  "train": "main",
  "sample": "sample",
  "generate": "generate",
  "evaluate": "evaluate",
  "compare": "compare",
  "report": "report.__main__",
  "score-readers": "score_readers",
  "train-autoencoder": "train_autoencoder",
  "cost": "cost",
  "plan": "plan",
}


def main() -> None:
  """Runs the command that the first argument names; lists all commands without one."""
  name = sys.argv[1] if len(sys.argv) > 1 else "--help"
  if name in ("-h", "--help", "help"):
    print("usage: cxr-diffusion COMMAND [FLAGS]; COMMAND --help lists its flags\n")
    for command, module in COMMANDS.items():
      print(f"  {command:<18} {_summary(module)}")
    return
  module = COMMANDS.get(name.replace("_", "-"), "main" if name == "main" else "")
  if not module:
    print(
      f"error: no command {name}; expected one of {', '.join(COMMANDS)}",
      file=sys.stderr,
    )
    sys.exit(2)
  sys.argv = [f"cxr-diffusion {name}", *sys.argv[2:]]
  runpy.run_module(f"cxr_diffusion_jax.{module}", run_name="__main__")


def _summary(module: str) -> str:
  """Returns the first line of a module's docstring, without importing it."""
  path = pathlib.Path(__file__).parent / f"{module.replace('.', '/')}.py"
  text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
  return text.splitlines()[0]


if __name__ == "__main__":
  main()
