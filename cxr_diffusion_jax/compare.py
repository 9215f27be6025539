"""Compares conditioning paths on the same records, and reports which is best.

  python -m cxr_diffusion_jax.compare --workdirs runs/elixr_b,runs/elixr_c --out report

Runs that differ only in their seed are runs of one path. Generates with all of them
for the same test images with the same noise, judges, and writes OUT/report.html (one
file, opens from disk), OUT/figures/*.svg and .png, OUT/table.md, OUT/table.csv,
OUT/metrics.json and OUT/reader_study/. Repeated calls reuse earlier results.
"""

import pathlib

from absl import flags

from cxr_diffusion_jax.cli import (
  command,
  evaluation_flags,
  flag_help,
  terminal,
)

with flag_help.group("Runs"):
  _WORKDIRS = flags.DEFINE_list(
    "workdirs", None, "Folders of runs on the same records.", required=True
  )
  _OUT = flags.DEFINE_string("out", None, "Where to write.", required=True)
_OPTIONS = evaluation_flags.define()


def main() -> None:
  """Generates with every run, judges, and prints the table."""
  from cxr_diffusion_jax.evaluation.comparison import paths as paths_lib
  from cxr_diffusion_jax.evaluation.comparison import runs as comparison
  from cxr_diffusion_jax.extras.reader_study import study as reader_study
  from cxr_diffusion_jax.report.comparison import page as comparison_page

  terminal.announce_compiling()
  options = evaluation_flags.options(_OPTIONS)
  paths = paths_lib.open_paths(
    [pathlib.Path(workdir) for workdir in _WORKDIRS.value],
    **evaluation_flags.which(_OPTIONS),
  )
  if evaluation_flags.make_share(paths, options, _OPTIONS):
    return
  out = evaluation_flags.output_folder(_OUT.value)
  compared = comparison.compare(paths, out, options, progress=command.progress)
  reader_study.of_comparison(compared, out, options.reader_num)
  page = comparison_page.write(compared, out)
  print((out / "table.md").read_text(encoding="utf-8"))
  print(f"report: {page}")


if __name__ == "__main__":
  command.run(main)
