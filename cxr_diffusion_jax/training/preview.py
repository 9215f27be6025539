"""The picture that training makes: a condition's image, and what it generates below.

The conditions are those of fixed validation images and the noise is fixed too, so the
pictures of one run show one thing: what training changes.
"""

from collections.abc import Callable
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from cxr_diffusion_jax import pictures, types
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.training import experiment as experiment_lib


def make_show(
  experiment: experiment_lib.Experiment,
  dataset: dataset_lib.Dataset,
  workdir: pathlib.Path,
  writer: Any,
) -> Callable[[types.Params, int], None]:
  """Builds (averaged parameters, step) -> WORKDIR/samples/step_STEP.png.

  Args:
    experiment: of the run.
    dataset: whose validation split gives the conditions.
    workdir: of the run.
    writer: a CLU metric writer, which gets the picture too.
  """
  source = dataset.source("validation")
  count = min(experiment.recipe.sample.num_images, len(source))
  rows = np.linspace(0, len(source) - 1, count).astype(int)
  batch = source.batch(rows)
  recipe = experiment.recipe.with_statistics(dataset.card.statistics)
  generate = generate_lib.make_generate(
    recipe.denoiser, recipe.sample, recipe.latent_shape, recipe.mesh
  )
  keys = generate_lib.sample_keys(experiment.seed, np.arange(count))
  real = [source.reference_image(int(row)) for row in rows]
  names = [
    "\n".join(labels.names_of(row, dataset.records.vocabulary)[:2])
    for row in batch["findings"]
  ]

  def show(ema_params: types.Params, step: int) -> None:
    made = generate_lib.generate_rows(
      generate, ema_params, batch, keys, experiment.mesh, batch_size=count
    )
    if jax.process_index() > 0:
      return
    picture = pictures.grid(
      [real, list(made)],
      row_labels=("condition", "generated"),
      column_labels=names,
      title=f"step {step}, guidance {recipe.sample.guidance_text}, {dataset.kind}",
    )
    path = workdir / "samples" / f"step_{step:07d}.png"
    pictures.save(picture, path)
    logging.info("saved %s", path)
    writer.write_images(step, {"samples": np.asarray(picture)[None, :, :, None]})

  return show
