"""Conditioning paths side by side: the same test images, the same noise, one judge.

  runs --same conditions, seeds, steps--> images --probe--> found, AUROC; table.md
                                                +--> comparison.png, a row a path
  their events --> losses.png

The judge is a classifier trained on the real training images of the same records; what
it says of the real test images is the ceiling.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from cxr_diffusion_jax import errors, pictures, types
from cxr_diffusion_jax.data import atomic_file
from cxr_diffusion_jax.evaluation import (
  adherence,
  comparison_report,
  curves,
  probe,
  reconstruction,
  sampling,
)
from cxr_diffusion_jax.evaluation import conditions as conditions_lib
from cxr_diffusion_jax.evaluation.comparison_report import Path
from cxr_diffusion_jax.evaluation.request import Request
from cxr_diffusion_jax.preparation import standin_tree
from cxr_diffusion_jax.training import run_files


def compare(
  workdirs: Sequence[pathlib.Path],
  out: pathlib.Path,
  *,
  num: int = 256,
  split: str = "test",
  seed: int = 0,
  batch_size: int = 32,
  ema_length: float | None = None,
  progress: types.Progress = types.no_progress,
) -> str:
  """Compares runs; what was generated before with the same checkpoint is kept.

  Args:
    workdirs: folders of runs on the same records.
    out: receives table.md, metrics.json, comparison.png, losses.png and
      NAME/images.npz.
    num: conditions, spread evenly over the split; one image each.
    split: whose images are asked for again.
    seed: of the noise.
    batch_size: images a call.
    ema_length: of averages made of each run's snapshots; None for each run's own.
    progress: told during long work.

  Returns:
    The text of table.md.

  Raises:
    errors.InputError: runs on other records, one that cannot be sampled, or too few
      images with the same finding.
  """
  if len({workdir.name for workdir in workdirs}) != len(workdirs):
    raise errors.InputError("two runs of one name", "folders of different names")
  runs = [sampling.open_run(workdir, ema_length=ema_length) for workdir in workdirs]
  _check_records(runs)
  ids = _ids(runs, split, num)
  # As they were trained: what samples them here has devices of its own.
  configs = [run_files.read(workdir)[0] for workdir in workdirs]
  judge = _judge(runs[0], progress)
  asked, shown = _real(runs[0], ids)

  def measure(images: np.ndarray) -> adherence.Adherence:
    return adherence.measure(judge.scores(images), asked, judge.thresholds)

  # First, as it refuses images that share too few findings.
  measured = {f"real {split} images": measure(shown)}
  paths = [
    dataclasses.replace(
      _generate(run, config, ids, out / run.workdir.name, seed, batch_size, progress),
      floor=reconstruction.measure(run.objective.codec, run.experiment.mesh, shown),
    )
    for run, config in zip(runs, configs, strict=True)
  ]
  measured |= {path.name: measure(path.images) for path in paths}
  text = comparison_report.text(paths, measured, split, configs)
  told = json.dumps(comparison_report.metrics(paths, measured), indent=1)
  atomic_file.write_text(out / "table.md", text)
  atomic_file.write_text(out / "metrics.json", told + "\n")
  picture = comparison_report.picture(paths, asked, shown)
  pictures.save(picture, out / "comparison.png")
  losses = {run.workdir.name: curves.read(run.workdir) for run in runs}
  # Training's own losses are noisy, and hide each other.
  told_tags = [tag for tag in curves.TAGS if tag.startswith("validation/")]
  pictures.save(curves.picture(losses, told_tags), out / "losses.png")
  return text


def _check_records(runs: Sequence[sampling.Run]) -> None:
  prints = {run.dataset.records.fingerprint for run in runs}
  if len(prints) > 1:
    raise errors.InputError(
      f"runs on {len(prints)} different sets of records",
      "runs on the same images, splits and size",
    )


def _ids(runs: Sequence[sampling.Run], split: str, num: int) -> list[str]:
  """Evenly spaced images of the split that every run has a condition for."""
  common = None
  for run in runs:
    source = run.dataset.source(split)
    usable = run.dataset.ids(split)[source.reference_row >= 0]
    common = usable if common is None else common[np.isin(common, usable)]
  if not len(common):
    raise errors.InputError(f"split {split!r}: no image has a condition in every run")
  places = np.linspace(0, len(common) - 1, min(num, len(common))).astype(int)
  return [str(name) for name in common[places]]


def _generate(
  run: sampling.Run,
  config: Mapping[str, Any],
  ids: Sequence[str],
  folder: pathlib.Path,
  seed: int,
  batch_size: int,
  progress: types.Progress,
) -> Path:
  facts = [run.dataset.description, config, _weights(run), list(ids), seed]
  fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
  images = _kept(folder / "images.npz", fingerprint)
  if images is None:
    desk = conditions_lib.Desk(settings=run.experiment.data, dataset=run.dataset)
    asked = desk.make(Request(image_ids=tuple(ids)), len(ids))
    shifted = asked.take([*range(1, len(asked)), 0]).take(range(min(32, len(asked))))
    images = {}
    for name, conditions in (("images", asked), ("swapped", shifted)):
      made = sampling.sample(
        run,
        conditions,
        num=len(conditions),
        seed=seed,
        batch_size=batch_size,
        progress=lambda label, done, total: progress(
          f"{run.workdir.name} images", done, total
        ),
      )
      images[name] = made.images
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "images.npz.partial"
    with partial.open("wb") as file:
      np.savez_compressed(file, fingerprint=np.array(fingerprint), **images)
    partial.replace(folder / "images.npz")
  told = curves.read(run.workdir)
  losses = tuple(
    told[tag][1][-1] if tag in told else float("nan")
    for tag in ("validation/loss", "validation/loss_unconditional")
  )
  return Path(
    name=run.workdir.name,
    images=images["images"],
    swapped=images["swapped"],
    losses=losses,
    kind=run.dataset.kind,
    step=run.checkpoint_step,
  )


def _weights(run: sampling.Run) -> str:
  """Tells the parameters of a run from those of any other training into its folder."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(run.ema_params):
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()


def _kept(path: pathlib.Path, fingerprint: str) -> dict[str, np.ndarray] | None:
  if not path.is_file():
    return None
  with np.load(path) as arrays:
    if str(arrays["fingerprint"]) != fingerprint:
      return None
    return {name: arrays[name] for name in ("images", "swapped")}


def _judge(run: sampling.Run, progress: types.Progress) -> probe.Probe:
  """The probe of the run's records, trained on their training split."""
  records = run.dataset.records
  of_split = {
    split: (standin_tree.Images(records, split), records.fields(split)["findings"])
    for split in ("train", "validation")
  }
  return probe.train_probe(
    *of_split["train"],
    records.folder / "probe",
    validation=of_split["validation"],
    progress=progress,
  )


def _real(run: sampling.Run, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Findings [n 14] and images uint8 [n h w 1] of the test images."""
  rows = [source.batch([place]) for source, place in run.dataset.find(ids)]
  images = np.concatenate([row["image"] for row in rows])
  asked = np.concatenate([row["findings"] for row in rows])
  return asked, np.round((images + 1) * 127.5).astype(np.uint8)
