"""Writes the report of a run, with its losses and pictures.

python -m cxr_diffusion_jax.report --workdir runs/elixr_c
"""

from absl import flags

from cxr_diffusion_jax.cli import command, flag_help

with flag_help.group("Run"):
  _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)


def main() -> None:
  """Writes WORKDIR/report.html and report.png and prints their paths."""
  from cxr_diffusion_jax.report import run_page

  page = run_page.write(_WORKDIR.value)
  print(f"report: {page} (and {page.with_suffix('.png').name})")


if __name__ == "__main__":
  command.run(main)
