"""Scores the answers of experts to a blinded sheet of real and generated images.

  python -m cxr_diffusion_jax.score_readers --key STUDY/key.csv --answers a.csv,b.csv

Prints tables in Markdown (Turing test with exact intervals, agreement of readers,
findings seen) and writes scores.json beside the key.
"""

import json
import pathlib

from absl import flags

from cxr_diffusion_jax.cli import command, flag_help

with flag_help.group("Study"):
  _KEY = flags.DEFINE_string("key", None, "The study's key.csv.", required=True)
  _ANSWERS = flags.DEFINE_list(
    "answers", None, "Tables that the readers sent back.", required=True
  )


def main() -> None:
  """Reads the answers, prints the tables, writes the figures."""
  from cxr_diffusion_jax import artifacts, disk
  from cxr_diffusion_jax.extras.reader_study import report as reader_report
  from cxr_diffusion_jax.extras.reader_study import scores as reader_scores

  key = pathlib.Path(_KEY.value)
  scores = reader_scores.score(key, _ANSWERS.value)
  out = key.with_name("scores.json")
  with disk.reporting(out):
    text = json.dumps(reader_scores.to_json(scores), indent=2)
    artifacts.write_text(out, text + "\n")
  print(reader_report.text(scores))


if __name__ == "__main__":
  command.run(main)
