"""The picture of samples during training: condition images above generated ones.

Conditions and noise are fixed, so the pictures of a run differ only by training.
"""

from collections.abc import Callable

import jax
import numpy as np
from PIL import Image

from cxr_diffusion_jax import pictures, types
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import recipe as recipe_lib
from cxr_diffusion_jax.sampling import generate as generate_lib


def make_show(
  recipe: recipe_lib.Recipe, dataset: dataset_lib.Dataset, seed: int
) -> Callable[[types.Params, int], Image.Image | None]:
  """Builds (averaged parameters, step) -> picture; None except on the first host."""
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
