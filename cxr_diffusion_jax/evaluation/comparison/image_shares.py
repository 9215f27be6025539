"""A share of the images that an evaluation generates, for several processes at once.

paths --image_requests, elicitation--> images of each run and seed --part p of n--> disk
"""

from collections.abc import Sequence

from cxr_diffusion_jax import types
from cxr_diffusion_jax.evaluation import real_sets
from cxr_diffusion_jax.evaluation.comparison import elicitation, path_assessment
from cxr_diffusion_jax.evaluation.comparison.paths import ConditioningPath
from cxr_diffusion_jax.sampling import image_parts


def make(
  paths: Sequence[ConditioningPath],
  options: path_assessment.Options,
  share: tuple[int, int],
  progress: types.Progress = types.no_progress,
) -> int:
  """Generates parts p, p + n, ... of the images that `runs.compare` judges.

  It finds them in the runs' folders, and generates what is missing: also the images of
  a sweep of guidance, and those that `utility` trains on, which are not shared.

  Args:
    share: (p, n).

  Returns:
    How many images all shares have together.

  Raises:
    errors.InputError: too few images in the split.
  """
  runs = [run for path in paths for run in path.runs]
  _, sets = real_sets.select(runs, options.split, options.num, options.per_patient)
  asked = path_assessment.image_requests(sets["conditions"].ids.tolist(), options)
  total = 0
  for run in runs:
    of_run = [*asked.values()]
    if options.elicits and options.memorisation_num:
      training = sets["training"]
      rows = elicitation.rows(training, run, options.memorisation_num)
      ids = training.ids[rows].tolist()
      of_run.append(
        {"image_ids": ids, "name": elicitation.NAME, "first": elicitation.FIRST}
      )
    weights = image_parts.weights_digest(run)
    for seed in options.seeds:
      generator = path_assessment.prepare(run, options, seed, weights)
      for request in of_run:
        image_parts.generate(generator, **request, share=share, progress=progress)
        total += len(request["image_ids"])
  return total
