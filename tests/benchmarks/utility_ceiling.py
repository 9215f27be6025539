"""Compares a classifier of utility's real arm with the probe, on phantoms.

  python tests/benchmarks/utility_ceiling.py --root phantom-cxr --records records

Trains both to their plateau on the records' training images, and prints their macro
AUROC on the test images of NIH's official split, with 95 % intervals over patients.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders.probes import mixture_fit
from cxr_diffusion_jax.evaluation import eval_context
from cxr_diffusion_jax.evaluation.comparison import path_assessment, utility_paths
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.metrics import utility_arms


def main() -> None:
  """Prints a row for each classifier."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--root", required=True, help="A tree of images.")
  parser.add_argument("--records", required=True, help="Folder of its records.")
  parser.add_argument("--size", type=int, default=64)
  parser.add_argument("--phantoms", type=int, default=2400)
  given = parser.parse_args()
  settings = DataSettings(
    root=given.root,
    records_dir=given.records,
    image_size=given.size,
    phantom_images=given.phantoms,
  )
  records = records_lib.open_records(settings)
  if records is None:
    parser.error("no records there: run `python -m cxr_diffusion_jax.prepare` first")
  test = image_set.of_records(records, "test")
  sources = {
    split: mixture_fit.read(image_set.of_records(records, split), _silent)
    for split in ("train", "validation", "test")
  }
  num = len(sources["train"].images)
  options = path_assessment.Options()
  utility = utility_paths.settings_of(options, given.size, num)
  phases = utility_arms.phases(
    (1.0, "real", 0), sources["train"], sources["train"], utility
  )
  trainer = mixture_fit.Trainer(sources["test"], sources["validation"])
  with tempfile.TemporaryDirectory() as folder:
    start = time.monotonic()
    scores = trainer.scores(pathlib.Path(folder), "real", phases, _printed)
    _report("real arm", scores, test, time.monotonic() - start)
  start = time.monotonic()
  judge = eval_context.train_judge(records, progress=_printed)
  _report("probe", judge.scores(test.images), test, time.monotonic() - start)


def _report(name: str, scores: np.ndarray, test: image_set.ImageSet, seconds: float):
  findings = np.asarray(test.labels["findings"])
  figures = adherence.measure(
    scores, findings, np.zeros(scores.shape[1]), patients=test.patients
  )
  first, *_ = adherence.to_measurements(figures, test.vocabulary)
  print(f"\n{name}: AUROC {first.text}, {seconds:.0f} s")


def _printed(label: str, done: int, total: int) -> None:
  if done % 100 == 0 or done == total:
    print(f"\r{label}: {done} of {total}", end="", flush=True)


def _silent(*_: object) -> None:
  pass


if __name__ == "__main__":
  main()
