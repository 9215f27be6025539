"""The real images of a split that generated ones are compared with, and their features.

runs, split --selection--> conditions, reference, training --extractors--> [n d] each
"""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors import opening as features_lib
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.evaluation import selection
from cxr_diffusion_jax.run import run as run_lib


def select(
  runs: Sequence[run_lib.Run], split: str, num: int | None, per_patient: int
) -> tuple[ImageSet, dict[str, ImageSet]]:
  """The whole split; and its conditions and reference, and the training images."""
  records = runs[0].dataset.records
  whole = image_set.of_records(records, split)
  partners = [reference_rows(run, split, len(whole)) for run in runs]
  conditions, reference = selection.choose(
    whole.ids,
    whole.labels["patient"],
    usable=selection.common([rows >= 0 for rows in partners]),
    num=num,
    per_patient=per_patient,
    partners=partners,
  )
  return whole, {
    "conditions": whole.take(conditions, f"{split}, conditions"),
    "reference": whole.take(reference, f"{split}, other patients"),
    "training": image_set.of_records(records, "train"),
  }


def select_at_most(
  runs: Sequence[run_lib.Run], split: str, num: int, per_patient: int
) -> tuple[ImageSet, dict[str, ImageSet]]:
  """`select` with `num` conditions, or as many as half of the split gives.

  Raises:
    errors.InputError: too few images in the split.
  """
  patients = image_set.of_records(runs[0].dataset.records, split).num_patients
  if num <= patients // 2:
    try:
      return select(runs, split, num, per_patient)
    except errors.InputError:
      # Too few patients have a condition in every run.
      pass
  whole, sets = select(runs, split, None, per_patient)
  kept = range(min(num, len(sets["conditions"])))
  return whole, {**sets, "conditions": sets["conditions"].take(kept)}


def reference_rows(run: run_lib.Run, split: str, num: int) -> np.ndarray:
  """[num] rows of the images that a run's conditions are made from; -1 for none."""
  source = run.dataset.source(split)
  rows = np.full(num, -1, np.int64)
  rows[source.row] = source.reference_row
  return rows


def features(
  cache: pathlib.Path,
  extractors: Sequence[Extractor],
  whole: ImageSet,
  sets: Mapping[str, ImageSet],
  progress: types.Progress,
) -> dict[str, dict[str, np.ndarray]]:
  """Extractor -> "conditions", "reference", "training" and "split" -> [n d]."""
  place = {str(name): row for row, name in enumerate(whole.ids)}
  by_extractor = {}
  for extractor in extractors:
    of_split, of_training = (
      features_lib.extract(
        extractor, images.images, cache=cache, key=images.name, progress=progress
      )
      for images in (whole, sets["training"])
    )
    by_extractor[extractor.name] = {
      name: of_split[[place[str(one)] for one in sets[name].ids]]
      for name in ("conditions", "reference")
    } | {"training": of_training, "split": of_split}
  return by_extractor
