"""Judges the images of a run, or those of any model in a folder.

  python -m cxr_diffusion_jax.evaluate --workdir runs/elixr_c --num 2000 --metrics all
  python -m cxr_diffusion_jax.evaluate --real A/ --synthetic B/ --labels l.csv

Writes metrics.json, report.html, table.md, table.csv and figures/ to
WORKDIR/evaluation/STEP, or to --out; of a run, TensorBoard's scalars too.
Repeated calls reuse what an earlier call generated or measured.
"""

import pathlib
import typing

from absl import flags

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import (
  command,
  evaluation_flags,
  flag_help,
  metrics_logger,
  terminal,
)

if typing.TYPE_CHECKING:
  from etils import epath

  from cxr_diffusion_jax.evaluation.comparison import path_assessment

with flag_help.group("Of a run"):
  _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
with flag_help.group("Of folders of images"):
  _REAL = flags.DEFINE_string("real", None, "Folder of real images.")
  _SYNTHETIC = flags.DEFINE_string("synthetic", None, "Folder of generated images.")
  _TRAINING = flags.DEFINE_string(
    "training", None, "Folder of the images that the model was trained on."
  )
  _LABELS = flags.DEFINE_string(
    "labels", None, "CSV of the images of both folders: file, findings, ..."
  )
  _PROBE = flags.DEFINE_string("probe", None, "Folder of a trained probe as judge.")
  _SIZE = flags.DEFINE_integer("image_size", None, "Resize all images to it.", 16)
with flag_help.group("Output"):
  _OUT = flags.DEFINE_string(
    "out", None, "Where to write; WORKDIR/evaluation/STEP or evaluation by default."
  )
_OPTIONS = evaluation_flags.define()


def main() -> None:
  """Judges, and prints the table."""
  from cxr_diffusion_jax.evaluation.comparison import folders as folder_comparison
  from cxr_diffusion_jax.report.comparison import page as comparison_page

  terminal.announce_compiling()
  options = evaluation_flags.options(_OPTIONS)
  workdir, real, synthetic = _WORKDIR.value, _REAL.value, _SYNTHETIC.value
  given = {"workdir": workdir, "real": real, "synthetic": synthetic}
  chosen = [f"--{name}" for name, value in given.items() if value]
  if chosen not in (["--workdir"], ["--real", "--synthetic"]):
    raise errors.InputError(
      " and ".join(chosen) or "nothing to evaluate",
      "--workdir of a run, or --real and --synthetic",
    )
  if real and synthetic:
    if _OPTIONS["shard"].value != "0/1":
      raise errors.InputError("--shard with --real", "--workdir, whose images it makes")
    out = evaluation_flags.output_folder(_OUT.value or "evaluation")
    compared = folder_comparison.compare(
      folder_comparison.Folders(
        real=real,
        synthetic=synthetic,
        training=_TRAINING.value,
        labels=_LABELS.value,
        probe=_PROBE.value,
        image_size=_SIZE.value,
      ),
      out,
      options,
      progress=command.progress,
    )
    page = comparison_page.write(compared, out)
  else:
    page = _of_run(pathlib.Path(workdir or ""), options)
  if page is None:
    return
  print((page.parent / "table.md").read_text(encoding="utf-8"))
  print(f"report: {page}")


def _of_run(
  workdir: pathlib.Path, options: "path_assessment.Options"
) -> "epath.Path | None":
  """Judges the images of a run, or generates a share of them; returns the page."""
  from cxr_diffusion_jax.evaluation.comparison import path_assessment
  from cxr_diffusion_jax.evaluation.comparison import paths as paths_lib
  from cxr_diffusion_jax.evaluation.comparison import runs as comparison
  from cxr_diffusion_jax.extras.reader_study import study as reader_study
  from cxr_diffusion_jax.report.comparison import page as comparison_page

  (path,) = paths = paths_lib.open_paths([workdir], **evaluation_flags.which(_OPTIONS))
  if evaluation_flags.make_share(paths, options, _OPTIONS):
    return None
  folder = path_assessment.folder_of(path.runs[0])
  out = evaluation_flags.output_folder(_OUT.value or folder, adopt=not _OUT.value)
  title = f"{path.name}, step {path.steps[0]}"
  compared = comparison.compare(
    paths, out, options, title=title, progress=command.progress
  )
  reader_study.of_comparison(compared, out, options.reader_num)
  metrics_logger.write_scalars(
    workdir,
    path.steps[0],
    {
      f"evaluation/{one.subject}/{one.metric}/{one.judge.split(',')[0] or 'pixels'}": (
        one.value
      )
      for one in compared.paths[0].measurements
      if one.value is not None and one.group == "all"
    },
  )
  return comparison_page.write(compared, out)


if __name__ == "__main__":
  command.run(main)
