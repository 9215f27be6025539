"""Generates images for conditions of training images, which elicit memorised ones.

training images, one a patient --conditions, several noises each--> images, features
generated images for the context's conditions ---------------------> beside them

Each image is compared with that of the record it was generated for, also where the
condition is made from another image.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors import opening as features_lib
from cxr_diffusion_jax.evaluation import selection
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.metrics import memorisation
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import image_parts

# Images for each condition.
REPEATS = 2

# Of the folder of these images.
NAME = "elicited"

# Number of the first one's noise, which no other image has.
FIRST = 3 * 10**6


def rows(training: ImageSet, run: run_lib.Run, num: int) -> np.ndarray:
  """Rows [2 num] of training images whose conditions elicit copies of them."""
  usable = np.isin(training.ids, run.dataset.ids("train"))
  chosen = selection.sample_patients(training.ids, training.patients, usable, num)
  return np.repeat(chosen, REPEATS)


def elicit(
  context: EvalContext,
  generator: image_parts.PartGenerator,
  num: int,
  images: types.Arrays,
  features: Mapping[str, np.ndarray],
  *,
  progress: types.Progress = types.no_progress,
) -> tuple[memorisation.Conditioned, memorisation.Conditioned] | None:
  """Generates two images for each of `num` training images of different patients.

  Args:
    context: its conditions are the rows that images were generated for.
    images: [n] of these conditions.
    features: extractor -> [n d].

  Returns:
    Images of training conditions and those of the context; None for no training images.
    Patients are in the order of a hash, the same for every path.
  """
  training = context.training
  if not num or training is None:
    return None
  own = rows(training, generator.run, num)
  requested = training.take(own, name="images for training conditions")
  elicited = image_parts.generate(
    generator,
    requested.ids.tolist(),
    name=NAME,
    first=FIRST,
    progress=progress,
  )
  extractor = context.preferred
  of_elicited = features_lib.extract(
    extractor,
    elicited,
    cache=generator.folder / "features",
    key=f"elicited-{len(own)}",
    progress=progress,
  )
  real = context.features[extractor.name]
  return memorisation.Conditioned(
    generated=dataclasses.replace(requested, images=elicited),
    originals=training,
    own=own,
    features=of_elicited,
    original_features=real["training"],
  ), memorisation.Conditioned(
    generated=dataclasses.replace(context.conditions, images=images),
    originals=context.conditions,
    own=np.arange(len(context.conditions)),
    features=features[extractor.name],
    original_features=real["conditions"],
  )
