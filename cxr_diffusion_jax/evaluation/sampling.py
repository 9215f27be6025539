"""Samples of a trained run, conditioned on images of its records.

WORKDIR -> Run(experiment, averaged parameters, records) -> Samples -> PNG, grids, JSON
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
from PIL import Image

from cxr_diffusion_jax import pictures, types
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.preparation import dataset as dataset_lib
from cxr_diffusion_jax.training import checkpoint, compatibility, run_files
from cxr_diffusion_jax.training import experiment as experiment_lib
from cxr_diffusion_jax.training import generate as generate_lib
from cxr_diffusion_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A trained run, read back.

  Attributes:
    workdir: its folder.
    experiment: built from its own config.
    dataset: its records and columns.
    objective: with its codec.
    ema_params: what is sampled from.
    checkpoint_step: of which step they are.
  """

  workdir: pathlib.Path
  experiment: experiment_lib.Experiment
  dataset: dataset_lib.Dataset
  objective: step_lib.Objective
  ema_params: types.Params
  checkpoint_step: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """Images and where they come from; row i of everything belongs together.

  Attributes:
    images: uint8 [n h w 1].
    references: uint8 [n h w 1], the image that each condition is of.
    entries: seed, number, image id and findings of each.
    settings: sampler, steps, guidance, checkpoint.
    title: one line for pictures.
    per_condition: consecutive rows that share a condition.
  """

  images: np.ndarray
  references: np.ndarray
  entries: Sequence[Mapping[str, Any]]
  settings: Mapping[str, Any]
  title: str
  per_condition: int


def open_run(workdir: pathlib.Path, *, checkpoint_step: int | None = None) -> Run:
  """Reads a run's config, data and averaged parameters.

  Raises:
    errors.InputError: no run or no checkpoint there, or its records have changed.
  """
  config, described = run_files.read(workdir)
  # The run may have been trained on more devices than there are here.
  config["parallel"] = {"data": -1, "fsdp": 1, "tensor": 1, "num_devices": 0}
  config["train"]["batch_size"] = (
    jax.device_count() * config["optimizer"]["accumulation"]
  )
  experiment = experiment_lib.build(config)
  shapes = jax.eval_shape(experiment.init_fn, jax.random.key(0))
  like = jax.tree.map(
    lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
    shapes,
    sharding.state_shardings(shapes, experiment.mesh),
  )
  with checkpoint.open_manager(workdir, read_only=True) as manager:
    ema_params = checkpoint.restore_ema(manager, like, checkpoint_step)
    step = manager.latest_step() if checkpoint_step is None else checkpoint_step
  dataset = dataset_lib.prepare(experiment.data, experiment.conditioner.columns)
  compatibility.check_data(described, dataset.description)
  return Run(
    workdir=workdir,
    experiment=experiment,
    dataset=dataset,
    objective=experiment.make_objective(experiment.make_codec(described["statistics"])),
    ema_params=ema_params,
    checkpoint_step=step,
  )


def sample(
  run: Run,
  *,
  num: int,
  split: str,
  image_ids: tuple[str, ...] = (),
  per_condition: int = 1,
  seed: int = 0,
  batch_size: int = 16,
  changes: Mapping[str, Any] | None = None,
  progress: types.Progress = types.no_progress,
) -> Samples:
  """Generates images for the conditions of real images.

  Args:
    run: what to sample from.
    num: images in all.
    split: whose images give the conditions, spread evenly over it.
    image_ids: take these images instead, of any split.
    per_condition: images of one condition, with different noise.
    seed: of the noise; image i's noise depends on the seed and i alone.
    batch_size: images a call.
    changes: of the run's own sample settings.
    progress: told after each batch.

  Raises:
    errors.InputError: no such split or image.
  """
  settings = dataclasses.replace(run.experiment.sample, **(changes or {}))
  per_condition = min(per_condition, num)
  batch, ids = _conditions(run.dataset, split, image_ids, -(-num // per_condition))
  order = [number // per_condition % len(ids) for number in range(num)]
  batch = {name: value[order] for name, value in batch.items()}
  generate = generate_lib.make_generate(
    run.objective, settings, run.experiment.latent_shape, run.experiment.mesh
  )
  images = generate_lib.generate_rows(
    generate,
    run.ema_params,
    batch,
    generate_lib.sample_keys(seed, np.arange(len(order))),
    run.experiment.mesh,
    batch_size=batch_size,
    progress=progress,
  )
  entries = [
    {
      "number": number,
      "seed": seed,
      "image_id": ids[i],
      "findings": labels.names_of(batch["findings"][number]),
    }
    for number, i in enumerate(order)
  ]
  return Samples(
    images=images,
    references=generate_lib.to_uint8(batch["image"]),
    entries=entries,
    settings=dataclasses.asdict(settings) | {"checkpoint_step": run.checkpoint_step},
    title=(
      f"{run.workdir.name}, step {run.checkpoint_step}, {settings.sampler}"
      f" {settings.num_steps}, guidance {settings.guidance:g}, {run.dataset.kind}"
    ),
    per_condition=per_condition,
  )


def write(samples: Samples, out: pathlib.Path) -> None:
  """Writes images, both grids and the JSON to a folder."""
  for folder in (out / "images", out / "references"):
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
      stale.unlink()
  entries = []
  for entry, image, reference in zip(
    samples.entries, samples.images, samples.references, strict=True
  ):
    name = f"{entry['number']:05d}_{entry['image_id']}.png"
    Image.fromarray(image[..., 0]).save(out / "images" / name)
    Image.fromarray(reference[..., 0]).save(
      out / "references" / f"{entry['image_id']}.png"
    )
    entries.append({**entry, "file": f"images/{name}"})
  text = json.dumps({"settings": samples.settings, "samples": entries}, indent=2)
  (out / "samples.json").write_text(text + "\n")
  shown = list(samples.images[:64])
  side = max(1, round(len(shown) ** 0.5))
  rows = [shown[i : i + side] for i in range(0, len(shown), side)]
  pictures.save(pictures.grid(rows, title=samples.title), out / "grid.png")
  pictures.save(_pairs(samples), out / "pairs.png")


def _pairs(samples: Samples) -> Image.Image:
  """One column a condition: its image on top, what was generated from it below."""
  k = samples.per_condition
  starts = range(0, min(len(samples.images), 12 * k), k)
  rows = [[samples.references[start] for start in starts]]
  rows += [
    [samples.images[start + j] for start in starts if start + j < len(samples.images)]
    for j in range(k)
  ]
  return pictures.grid(
    rows,
    row_labels=("condition", *("generated",) * k),
    column_labels=[
      "\n".join(samples.entries[start]["findings"][:2]) or "No Finding"
      for start in starts
    ],
    title=samples.title,
  )


def _conditions(
  dataset: dataset_lib.Dataset, split: str, image_ids: tuple[str, ...], count: int
) -> tuple[types.Batch, list[str]]:
  """The batch of the conditions' images, and their ids."""
  if image_ids:
    rows = [source.batch([row]) for source, row in dataset.find(image_ids)]
    batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return batch, [pathlib.PurePath(image_id).stem for image_id in image_ids]
  source = dataset.source(split)
  picked = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
  return source.batch(picked), [str(name) for name in dataset.ids(split)[picked]]
