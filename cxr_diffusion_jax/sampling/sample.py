"""Samples of a trained run: Run + Conditions --> Samples --files.write--> PNG, JSON."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib

import jax
import numpy as np
from PIL import Image

from cxr_diffusion_jax import artifacts, pictures, types
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import recipe as recipe_lib
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling import image_to_image
from cxr_diffusion_jax.sampling.request import Conditions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """Images and their origin; row i of every field belongs to image i."""

  images: np.ndarray  # uint8 [n h w 1]
  references: np.ndarray | None  # uint8 [n h w 1], the image of each condition
  entries: Sequence[artifacts.JsonMapping]  # seed, number and condition of each
  names: Sequence[str]  # of the conditions, safe for use in file names
  settings: artifacts.JsonMapping  # sampler, steps, guidance, checkpoint
  title: str  # one line for pictures
  per_condition: int  # consecutive rows that share a condition


def sample(
  run: run_lib.Run,
  conditions: Conditions,
  *,
  num: int,
  per_condition: int = 1,
  seed: int = 0,
  batch_size: int = 16,
  changes: artifacts.JsonMapping | None = None,
  weak_step: int | None = None,
  plan: image_to_image.Plan | None = None,
  progress: types.Progress = types.no_progress,
) -> Samples:
  """Generates images for conditions.

  Args:
    conditions: used in turn, repeatedly.
    num: total number of images.
    per_condition: images of each condition, with different noise.
    seed: seed of the noise; image i's noise depends only on the seed and i.
    changes: changes to the run's sample settings.
    weak_step: step of the checkpoint that autoguidance guides away from.
    plan: how to start from images, which the conditions' fields then hold (`editing`).

  Raises:
    errors.InputError: settings out of range, or no such checkpoint.
  """
  generator = generate_lib.make_generator(run.recipe, changes, plan=plan)
  per_condition = min(per_condition, num)
  order = [number // per_condition % len(conditions) for number in range(num)]
  taken = conditions.take(order)
  images = generator.generate(
    run.ema_params,
    taken.fields,
    seed=seed,
    numbers=np.arange(num),
    batch_size=batch_size,
    progress=progress,
    negative=conditions.negative,
    weak_params=None if weak_step is None else run.params_at(weak_step),
  )
  return Samples(
    images=images,
    references=taken.references,
    entries=[
      {"number": number, "seed": seed, **entry}
      for number, entry in enumerate(taken.entries)
    ],
    names=taken.names,
    settings=dataclasses.asdict(generator.settings)
    | {
      "checkpoint_step": run.checkpoint_step,
      "ema_length": run.ema_length,
      "autoguidance_step": weak_step,
      "evaluations_per_image": generator.evaluations(weak=weak_step is not None),
    },
    title=title(run, generator.settings, weak_step),
    per_condition=per_condition,
  )


def title(
  run: run_lib.Run,
  settings: generate_lib.SampleSettings,
  weak_step: int | None = None,
  varied: Sequence[str] = (),
) -> str:
  """Returns a one-line description of a picture.

  Args:
    weak_step: step of the checkpoint that autoguidance guided away from.
    varied: settings that vary within the picture, such as 'sampler' or 'guidance'.
  """
  auto = "" if weak_step is None else f" away from step {weak_step}"
  texts = {
    "sampler": settings.sampler,
    "num_steps": f"{settings.num_steps} steps",
    "guidance": f"guidance {settings.guidance_text}{auto}",
  }
  average = "" if run.ema_length is None else f" with EMA length {run.ema_length:g}"
  parts = [f"{run.folder.name} at {run.checkpoint_text}{average}"]
  parts += [text for name, text in texts.items() if name not in varied]
  return ", ".join([*parts, run.card.kind])


def caption(entry: artifacts.JsonMapping) -> str:
  """Returns at most two short lines that describe a condition."""
  if "prompt" in entry:
    words = entry["prompt"].split()
    half = (len(words[:8]) + 1) // 2
    return " ".join(words[:half]) + "\n" + " ".join(words[half:8])
  if "findings" in entry:
    return "\n".join(entry["findings"][:2]) or "No Finding"
  if "unconditional" in entry:
    return "no condition"
  parts = [str(entry[key]) for key in ("age", "sex", "view") if key in entry]
  if "reference" in entry:
    parts = [pathlib.PurePath(entry["reference"]).name]
  return "\n".join(parts)


def make_show(
  recipe: recipe_lib.Recipe, dataset: dataset_lib.Dataset, seed: int
) -> Callable[[types.Params, int], Image.Image | None]:
  """Builds (averaged parameters, step) -> a picture, None except on the first host.

  Conditions come from fixed validation images and the noise is fixed, so the pictures
  of a run differ only by training.
  """
  recipe = recipe.with_statistics(dataset.card.statistics)
  source = dataset.source("validation")
  count = min(recipe.sample.num_images, len(source))
  rows = np.linspace(0, len(source) - 1, count).astype(int).tolist()
  batch = source.batch(rows)
  generator = generate_lib.make_generator(recipe)
  real = [source.reference_image(row) for row in rows]
  vocabulary = dataset.records.vocabulary
  names = ["\n".join(labels.names_of(row, vocabulary)[:2]) for row in batch["findings"]]

  def show(ema_params: types.Params, step: int) -> Image.Image | None:
    images = generator.generate(
      ema_params, batch, seed=seed, numbers=np.arange(count), batch_size=count
    )
    if jax.process_index() > 0:
      return None
    return pictures.grid(
      [real, list(images)],
      row_labels=("condition", "generated"),
      column_labels=names,
      title=f"step {step}, guidance {recipe.sample.guidance_text}, {dataset.kind}",
    )

  return show
