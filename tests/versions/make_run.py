"""Makes the run and the records that every later version opens or refuses.

  python tests/versions/make_run.py

writes NAME.tar.gz and NAME.npy beside this file; NAME states the formats of runs and of
records. Run it when one of the formats is raised, and keep the earlier files: each has
a line in `test_versions.py` that says whether it is opened or refused.
"""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax import api
from cxr_diffusion_jax.data.records import plan
from cxr_diffusion_jax.run import card

FOLDER = pathlib.Path(__file__).parent
NAME = f"run{card.FORMAT}_records{plan.FORMAT}"


ARGUMENTS = (
  "--config=configs/phantom.py:findings,dit_tiny",
  *("--config.model.width=8", "--config.model.depth=1", "--config.model.num_heads=1"),
  *("--config.model.stem=linear", "--config.model.head=linear"),
  *("--config.data.image_size=32", "--config.data.phantom_images=24"),
  *("--config.train.num_steps=2", "--config.train.batch_size=4"),
  *("--config.train.validate_every=2", "--config.train.validation_batches=1"),
  "--config.train.sample_every=0",
)


def sample(run: api.Run) -> np.ndarray:
  """Images [2 h w] from the run's parameters and the findings of two test rows."""
  return run.sample(split="test", num=2, num_steps=1, sampler="euler", seed=3)


def main() -> None:
  # Phantoms' path is written into the records: not that of a checkout.
  place = pathlib.Path(tempfile.gettempdir()) / "phantom-run"
  shutil.rmtree(place, ignore_errors=True)
  arguments = (
    f"--config.data.root={place}/phantom-cxr",
    f"--config.data.records_dir={place}/records",
    f"--workdir={place}/run",
  )
  command = [sys.executable, "-m", "cxr_diffusion_jax.main", *ARGUMENTS, *arguments]
  subprocess.run(command, check=True)
  np.save(FOLDER / f"{NAME}.npy", sample(api.load_run(place / "run")))
  for path in [*place.glob("**/*lock.json"), *place.glob("run/events.*")]:
    path.unlink()
  with tarfile.open(FOLDER / f"{NAME}.tar.gz", "w:gz") as archive:
    for name in ("run", "records"):
      archive.add(place / name, name, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
  member.uid = member.gid = 0
  member.uname = member.gname = ""
  return member


if __name__ == "__main__":
  main()
