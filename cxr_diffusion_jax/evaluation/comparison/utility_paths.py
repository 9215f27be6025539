"""What the images of a path are worth as training data.

conditions of training images, several noises each --first run--> images -> utility
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.probes import probe_settings
from cxr_diffusion_jax.evaluation.comparison import path_assessment
from cxr_diffusion_jax.evaluation.comparison.path_assessment import Options
from cxr_diffusion_jax.evaluation.comparison.paths import ConditioningPath
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.metrics import utility
from cxr_diffusion_jax.evaluation.metrics.utility_arms import UtilitySettings
from cxr_diffusion_jax.sampling import image_parts

# Number of the first image's noise, which no other image has.
FIRST = 2 * 10**6


def measure(
  context: EvalContext,
  path: ConditioningPath,
  options: Options,
  progress: types.Progress = types.no_progress,
) -> utility.UtilityReport:
  """Trains classifiers on images of the first run; on real ones once for all paths."""
  training, records = context.training, context.records
  assert training is not None
  assert records is not None
  return utility.measure(
    training,
    training_images(context, path, options, progress),
    context.reference,
    path_assessment.folder_of(path.runs[0]) / "utility",
    validation=image_set.of_records(records, "validation"),
    settings=settings_of(options, records.image_size, len(training)),
    shared_folder=records.folder / "utility",
    progress=progress,
  )


def settings_of(options: Options, image_size: int, num_images: int) -> UtilitySettings:
  """Settings for real images of this size and number."""
  network = probe_settings.default_settings(
    image_size, num_images, **options.classifier_changes(options.utility_steps)
  )
  return UtilitySettings(
    # Half the probe's sides, since many are trained.
    network=dataclasses.replace(network, stem_stride=2 * network.stem_stride),
    fractions=tuple(options.utility_fractions),
    ratios=tuple(options.utility_ratios),
  )


def training_images(
  context: EvalContext,
  path: ConditioningPath,
  options: Options,
  progress: types.Progress = types.no_progress,
) -> ImageSet:
  """Images of the first run for conditions of training images."""
  run, training = path.runs[0], context.training
  assert training is not None
  usable = np.flatnonzero(np.isin(training.ids, run.dataset.ids("train")))
  num = (options.utility_num or len(usable)) * max(options.utility_ratios)
  findings = np.asarray(training.labels["findings"])
  if options.utility_balanced:
    rows = balanced_rows(findings, usable, num, training.vocabulary)
  else:
    # An order that does not depend on patients; as often as it takes.
    rows = np.resize(np.random.default_rng(0).permutation(usable), num)
  requested = training.take(rows, name=path.name)
  images = image_parts.generate(
    path_assessment.prepare(run, options, options.seeds[0]),
    requested.ids.tolist(),
    name="training_balanced" if options.utility_balanced else "training",
    first=FIRST,
    progress=progress,
  )
  return dataclasses.replace(requested, images=images)


def balanced_rows(
  findings: np.ndarray, usable: np.ndarray, num: int, vocabulary: Sequence[str] = ()
) -> np.ndarray:
  """Draws `num` of the usable rows, in turn one with each finding and one with none.

  Those of a finding are drawn in a shuffled order, and repeat once all were drawn. Rows
  with none are full negatives. Findings [n k] (nan unknown) that no usable row has are
  left out.
  """
  generator = np.random.default_rng(0)
  columns = [*(findings[usable] > 0.5).T, labels.is_none(findings[usable], vocabulary)]
  orders = [
    generator.permutation(usable[present]) for present in columns if present.any()
  ]
  orders = orders or [generator.permutation(usable)]
  turns = -(-num // len(orders))
  return np.stack([np.resize(order, turns) for order in orders], axis=1).ravel()[:num]
