"""Writes phantoms to disk as a whole NIH chest X-ray tree, so every reader can be used.

plan (patients, splits, expert sets) -> PNGs, facts in each -> CSVs, lists, README

The settings are written first and marked complete last; in between, a repeated call
keeps the images that are there and makes the others.

`python -m` this module renders one process's share:
stdin: one JSON job -> PNG files, each whole or absent -> stdout: one index a line
"""

from collections.abc import Generator, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image, PngImagePlugin

from cxr_diffusion_jax import artifacts, disk, errors
from cxr_diffusion_jax.data.sources.phantom import SETTINGS_FILE, TEXT_KEY, read_facts
from cxr_diffusion_jax.extras.phantom import render
from cxr_diffusion_jax.extras.phantom import tables as phantom_tables
from cxr_diffusion_jax.progress import Progress, no_progress

# Raise whenever equal settings begin to give other images, so that trees never mix.
RENDERING = 1

# NIH packs its images in folders of about so many.
IMAGES_PER_FOLDER = 10_000

# Pixels that one process renders in about 20 s; below it, starting others is a loss.
PIXELS_WORTH_PROCESSES = 2_000 * 128**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Which patient each of n images shows, and which lists name it."""

  patient: np.ndarray  # [n] int, from 1
  follow_up: np.ndarray  # [n] int, from 0 within a patient
  is_test: np.ndarray  # [n] bool, in the official test list
  expert: np.ndarray  # [n] str, the set of Google's labels: 'validation', 'test' or ''

  def name(self, index: int) -> str:
    """The image's file name, as NIH names files."""
    return f"{self.patient[index]:08d}_{self.follow_up[index]:03d}.png"


def make_plan(num_images: int, seed: int, visits: float = 0.0) -> Plan:
  """Images of patients, seeded; 20 % in test, 5 % in each expert set.

  Args:
    visits: mean number of images of a patient, of a geometric distribution; 0 for 1 to
      4, 1.8 on average.
  """
  rng = np.random.default_rng([seed, 2**31])
  if visits:
    counts = rng.geometric(1 / visits, num_images)
  else:
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
  visits: float = 0.0,
  progress: Progress = no_progress,
  num_processes: int | None = None,
) -> pathlib.Path:
  """Makes a tree of phantoms, resumes an unfinished one, or keeps a complete one.

  Args:
    num_images: of all splits together, 2 or more.
    size: pixels of a side, 32 or more.
    seed: of the collection; equal settings give equal files.
    visits: mean number of images of a patient, whose body is the same in all of them;
      see `make_plan`.
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
  settings: artifacts.Json = {
    "phantom": True,
    "num_images": num_images,
    "size": size,
    "seed": seed,
  }
  settings["rendering"] = RENDERING
  if visits:
    settings["visits"] = visits
  with disk.reporting(root):
    if _begin(root, settings):
      return root
    plan = make_plan(num_images, seed, visits)
    paths = []
    for index in range(num_images):
      folder = f"images_{index // IMAGES_PER_FOLDER + 1:03d}"
      paths.append(root / "original" / folder / "images" / plan.name(index))
      paths[-1].parent.mkdir(parents=True, exist_ok=True)
    _render(plan, paths, size, seed, progress, num_processes)
    facts = [read_facts(path) for path in paths]
    phantom_tables.write_tables(root, plan, facts, settings)
    artifacts.write_json(root / SETTINGS_FILE, {**settings, "complete": True})
  return root


def _begin(root: pathlib.Path, settings: artifacts.Json) -> bool:
  """Claims `root` for a tree of `settings`; whether it is complete already."""
  path = root / SETTINGS_FILE
  if not path.is_file():
    # A full disk may have left a part of the file.
    unfinished = path.with_name(path.name + artifacts.SUFFIX)
    if root.exists() and (not root.is_dir() or {*root.iterdir()} - {unfinished}):
      raise errors.InputError(
        f"{root} exists and is no phantom tree",
        f"an empty or new folder, or one with {SETTINGS_FILE}",
        "another --config.data.root, or --config.data.phantom_images=0 for real images",
      )
    root.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(path, settings)
    return False
  saved = artifacts.read_json(path)
  complete = saved.pop("complete", False)
  keys = sorted({*saved, *settings})
  differing = [key for key in keys if saved.get(key) != settings.get(key)]
  if differing:
    here, wanted = (
      ", ".join(f"{key}={values.get(key)}" for key in differing)
      for values in (saved, settings)
    )
    raise errors.InputError(
      f"{root} is a phantom tree with {here}",
      wanted,
      "another --config.data.root, or delete that folder",
    )
  return complete


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
  rendered = _rendered(**jobs[0]) if len(jobs) == 1 else _in_processes(jobs)
  present = len(paths) - len(missing)
  # Closed at once when `progress` raises, so that no process renders on.
  with contextlib.closing(rendered):
    for done, _ in enumerate(rendered, start=present + 1):
      progress("phantoms", done, len(paths))


def _rendered(
  seed: int, size: int, images: Sequence[tuple[int, int, str]]
) -> Generator[int, None, None]:
  """Renders images (index, patient, path); yields each index once its file is whole."""
  for index, patient, path in images:
    phantom = render.make_phantom(seed, index, size=size, patient=patient)
    text = PngImagePlugin.PngInfo()
    text.add_text(TEXT_KEY, json.dumps(_facts_of(phantom)))
    part = pathlib.Path(path + ".part")
    image = Image.fromarray(phantom.image)
    image.save(part, format="PNG", pnginfo=text, compress_level=4)
    os.replace(part, path)
    yield index


def _facts_of(phantom: render.Phantom) -> artifacts.Json:
  """All of a phantom but its pixels, as JSON holds it."""
  return {
    "findings": list(phantom.findings),
    "boxes": [
      [box.finding, *(round(value, 5) for value in box[1:])] for box in phantom.boxes
    ],
    "age": phantom.age,
    "sex": phantom.sex,
    "view": phantom.view,
    "cardiothoracic_ratio": round(phantom.cardiothoracic_ratio, 4),
    "pixel_cm": round(phantom.pixel_cm, 5),
    "lung_area": [round(value, 5) for value in phantom.lung_area],
    "diaphragm": [round(value, 5) for value in phantom.diaphragm],
  }


def _in_processes(jobs: list[artifacts.Json]) -> Generator[int, None, None]:
  """Runs each job in a process; yields the indices as their images are written.

  Not multiprocessing: a fork copies the caller's threads' locks (jax has threads), and
  a spawn imports the caller's main module with all that it imports.
  """
  # Each process is one share of the cores; BLAS threads would only fight over them.
  environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
  reading, writing = os.pipe()
  with contextlib.ExitStack() as stack:
    lines = stack.enter_context(open(reading))
    workers = []
    with open(writing, "w") as indices:
      for job in jobs:
        # Files, not pipes: neither a long job nor many error lines can block a process.
        text, error_file = (
          stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
          for _ in range(2)
        )
        json.dump(job, text)
        text.seek(0)
        worker = subprocess.Popen(
          [sys.executable, "-m", __name__],
          stdin=text,
          stdout=indices,
          stderr=error_file,
          cwd=pathlib.Path(__file__).resolve().parents[3],
          env=environment,
        )
        # Undone in reverse: the process ends before it is waited for.
        stack.enter_context(worker)
        stack.callback(worker.kill)
        workers.append((worker, error_file))
    # They share the pipe: it ends with the last of them.
    yield from map(int, lines)
    for worker, error_file in workers:
      if worker.wait():
        error_file.seek(0)
        last = error_file.read().strip().splitlines()[-1:]
        reason = last[0] if last else f"exit code {worker.returncode}"
        raise RuntimeError(f"a phantom worker failed: {reason}")


if __name__ == "__main__":
  for finished in _rendered(**json.load(sys.stdin)):
    # One write a line, so that the lines of several processes do not mix.
    sys.stdout.write(f"{finished}\n")
    sys.stdout.flush()
