"""Writes phantoms to disk as a whole NIH chest X-ray tree, so every reader can be used.

plan (patients, splits, expert sets) -> PNGs, facts in each -> CSVs, lists, README

The settings are written first and marked complete last; in between, a repeated call
keeps the images that are there and makes the others.
"""

from collections.abc import Generator
import contextlib
import dataclasses
import json
import os
import pathlib
import selectors
import subprocess
import sys
import tempfile
from typing import IO, cast

import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data.sources.phantom import SETTINGS_FILE, read_facts
from cxr_diffusion_jax.extras.phantom import tables as phantom_tables
from cxr_diffusion_jax.extras.phantom import worker as phantom_worker
from cxr_diffusion_jax.progress import Progress, no_progress

# Raise whenever equal settings begin to give other images, so that trees never mix.
RENDERING = 1

# NIH packs its images in folders of about so many.
IMAGES_PER_FOLDER = 10_000

# Pixels that one process renders in about 20 s; below it, starting others is a loss.
PIXELS_WORTH_PROCESSES = 2_000 * 128**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Which patient each of n images shows, and which lists name it.

  Attributes:
    patient: [n] int, from 1. follow_up: [n] int, from 0 within a patient.
    is_test: [n] bool, in the official test list. expert: [n] str, '' or the set of
    Google's expert labels, 'validation' or 'test'.
  """

  patient: np.ndarray
  follow_up: np.ndarray
  is_test: np.ndarray
  expert: np.ndarray

  def name(self, index: int) -> str:
    """The image's file name, as NIH names files."""
    return f"{self.patient[index]:08d}_{self.follow_up[index]:03d}.png"


def make_plan(num_images: int, seed: int) -> Plan:
  """1 to 4 images a patient; 20 % of patients in test; 5 % in each expert set.

  The patient of an image depends on `seed` and its index only.
  """
  rng = np.random.default_rng([seed, 2**31])
  draws = rng.random(num_images)
  counts = 1 + np.searchsorted(np.cumsum([0.55, 0.22, 0.13]), draws, side="right")
  of_image = np.repeat(np.arange(num_images), counts)[:num_images]
  first = np.searchsorted(of_image, of_image)
  num_patients = int(of_image[-1]) + 1
  order = np.random.default_rng([seed, 2**31 + 1]).permutation(num_patients)
  num_test = max(1, round(0.2 * num_patients)) if num_patients > 1 else 0
  share = max(1, round(0.05 * num_patients)) if num_patients > 8 else 0
  is_test = np.isin(np.arange(num_patients), order[:num_test])
  expert = np.full(num_patients, "", "<U10")
  # Of Google's test images some lie in NIH's train_val list: so do some of these.
  expert[order[num_test - share // 2 :][:share]] = "test"
  expert[order[num_test + share :][:share]] = "validation"
  return Plan(
    patient=of_image + 1,
    follow_up=np.arange(num_images) - first,
    is_test=is_test[of_image],
    expert=expert[of_image],
  )


def write_tree(
  root: str | os.PathLike,
  *,
  num_images: int,
  size: int,
  seed: int = 0,
  progress: Progress = no_progress,
  num_processes: int | None = None,
) -> pathlib.Path:
  """Makes a tree of phantoms, resumes an unfinished one, or keeps a complete one.

  Args:
    root: the tree's folder.
    num_images: of all splits together, 2 or more.
    size: pixels of a side, 32 or more.
    seed: of the collection; equal settings give equal files.
    progress: called with the number of finished images.
    num_processes: that render; None takes one a core when the work is worth it.

  Raises:
    InputError: `root` holds something else or a tree of other settings, or a number
      is too small.
  """
  root = pathlib.Path(root)
  if num_images < 2 or size < 32:
    raise errors.InputError(
      f"a phantom tree of {num_images} images of {size} pixels",
      "2 images or more, of 32 pixels or more",
    )
  settings = {
    "phantom": True,
    "num_images": num_images,
    "size": size,
    "seed": seed,
    "rendering": RENDERING,
  }
  if _begin(root, settings):
    return root
  plan = make_plan(num_images, seed)
  paths = _image_paths(root, plan)
  _render(plan, paths, size, seed, progress, num_processes)
  facts = [read_facts(path) for path in paths]
  phantom_tables.write_tables(root, plan, facts, settings)
  artifacts.write_json(root / SETTINGS_FILE, {**settings, "complete": True})
  return root


def _begin(root: pathlib.Path, settings: dict) -> bool:
  """Claims `root` for a tree of `settings`; whether it is complete already."""
  path = root / SETTINGS_FILE
  if not path.is_file():
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
      raise errors.InputError(
        f"{root} exists and is no phantom tree",
        f"an empty or new folder, or one with {SETTINGS_FILE}",
        "another --config.data.root, or --config.data.phantom_images=0 for real images",
      )
    root.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(path, settings)
    return False
  try:
    saved = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise errors.InputError(
      f"{path} is not JSON", "the settings of a phantom tree", f"delete {root}"
    ) from error
  complete = saved.pop("complete", False)
  if saved != settings:
    differing = sorted(
      key for key in {*saved, *settings} if saved.get(key) != settings.get(key)
    )
    raise errors.InputError(
      f"{root} is a phantom tree with "
      + ", ".join(f"{key}={saved.get(key)}" for key in differing),
      ", ".join(f"{key}={settings.get(key)}" for key in differing),
      "another --config.data.root, or delete that folder",
    )
  return complete


def _image_paths(root: pathlib.Path, plan: Plan) -> list[pathlib.Path]:
  """The path of every image; makes their folders."""
  paths = []
  for index in range(len(plan.patient)):
    number = index // IMAGES_PER_FOLDER + 1
    folder = root / "original" / f"images_{number:03d}" / "images"
    if index % IMAGES_PER_FOLDER == 0:
      folder.mkdir(parents=True, exist_ok=True)
    paths.append(folder / plan.name(index))
  return paths


def _render(
  plan: Plan,
  paths: list[pathlib.Path],
  size: int,
  seed: int,
  progress: Progress,
  num_processes: int | None,
) -> None:
  """Renders the images that are not there."""
  missing = [index for index, path in enumerate(paths) if not path.exists()]
  if not missing:
    return
  if num_processes is None:
    worth_it = len(missing) * size**2 > PIXELS_WORTH_PROCESSES
    num_processes = (os.cpu_count() or 1) if worth_it else 1
  jobs = [
    {
      "seed": seed,
      "size": size,
      "images": [(i, int(plan.patient[i]), str(paths[i].resolve())) for i in some],
    }
    for some in (missing[k::num_processes] for k in range(num_processes))
    if some
  ]
  rendered = phantom_worker.run(**jobs[0]) if len(jobs) == 1 else _in_processes(jobs)
  present = len(paths) - len(missing)
  # Closed at once when `progress` raises, so that no process renders on.
  with contextlib.closing(rendered):
    for done, _ in enumerate(rendered, start=present + 1):
      progress("phantoms", done, len(paths))


def _in_processes(jobs: list[artifacts.Json]) -> Generator[int, None, None]:
  """Runs each job in a process; yields the indices as their images are written.

  Not multiprocessing: a fork copies the caller's threads' locks (jax has threads), and
  a spawn imports the caller's main module with all that it imports.
  """
  package_root = pathlib.Path(__file__).resolve().parents[3]
  # Each process is one share of the cores; BLAS threads would only fight over them.
  environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
  command = [sys.executable, "-m", "cxr_diffusion_jax.extras.phantom.worker"]
  with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
    # Files, not pipes: neither a long job nor many error lines can block a process.
    error_files = [stack.enter_context(tempfile.TemporaryFile()) for _ in jobs]
    workers = []
    for job, error_file in zip(jobs, error_files, strict=True):
      text = stack.enter_context(tempfile.TemporaryFile())
      text.write(json.dumps(job).encode())
      text.seek(0)
      worker = subprocess.Popen(
        command,
        stdin=text,
        stdout=subprocess.PIPE,
        stderr=error_file,
        # Unbuffered: a line that waits in a buffer would not wake the selector.
        bufsize=0,
        cwd=package_root,
        env=environment,
      )
      workers.append(stack.enter_context(worker))
      # Undone in reverse: the process ends, then its pipe is closed.
      stack.callback(worker.kill)
      selector.register(cast(IO[bytes], worker.stdout), selectors.EVENT_READ)
    while selector.get_map():
      for key, _ in selector.select():
        pipe = cast(IO[bytes], key.fileobj)
        if line := pipe.readline():
          yield int(line)
        else:
          selector.unregister(pipe)
    for worker, error_file in zip(workers, error_files, strict=True):
      _check(worker, error_file)


def _check(worker: subprocess.Popen, error_file: IO[bytes]) -> None:
  """Raises the last line that a failed worker wrote."""
  if worker.wait():
    error_file.seek(0)
    lines = error_file.read().decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else f"exit code {worker.returncode}"
    raise RuntimeError(f"a phantom worker failed: {last}")
