"""Chooses each path's guidance on validation conditions, before any test image is made.

validation conditions x scales --first run, first seed--> images --judges--> points
  --best by the primary figure--> the scale that all of the path's figures are made at

All paths have the same conditions, noise, scales and judges.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from absl import logging

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.evaluation import eval_context as eval_context_lib
from cxr_diffusion_jax.evaluation import metric as metric_lib
from cxr_diffusion_jax.evaluation.comparison import path_assessment
from cxr_diffusion_jax.evaluation.comparison import primary as primary_lib
from cxr_diffusion_jax.evaluation.comparison.data import SweepPoint
from cxr_diffusion_jax.evaluation.comparison.path_assessment import Options
from cxr_diffusion_jax.evaluation.comparison.paths import ConditioningPath
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.sampling import image_parts

SPLIT = "validation"

# Number of the first image, whose noise no other image has.
FIRST = 4 * 10**6

# Figures of every point, beside the primary one.
_FIDELITY, _ADHERENCE = "frechet_distance", "auroc"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """The points of all paths.

  Attributes:
    num: conditions at each scale.
    patients: of these conditions.
    points: path -> a point a scale, in the order of the scales, one of them chosen.
  """

  num: int
  patients: int
  points: Mapping[str, Sequence[SweepPoint]]

  def chosen(self, path: str) -> SweepPoint:
    """The point of a path's best scale."""
    return next(point for point in self.points[path] if point.chosen)

  @property
  def warnings(self) -> list[str]:
    """Sentences on paths whose best scale may lie beyond those that were tried."""
    ends = []
    for name, points in self.points.items():
      scales, best = [point.guidance for point in points], self.chosen(name).guidance
      # A scale of 1 is no guidance, below which there is nothing to try.
      if len(scales) > 1 and (
        best == max(scales) or (best == min(scales) and best > 1)
      ):
        ends.append(f"{name} {best:g}")
    if not ends:
      return []
    return [
      "The best guidance is at an end of the scales that were tried, and may lie"
      f" beyond: {', '.join(ends)}."
    ]


def measure(
  context: EvalContext,
  paths: Sequence[ConditioningPath],
  options: Options,
  progress: types.Progress = types.no_progress,
) -> Sweep | None:
  """Measures each path at each scale and chooses; None without scales.

  Args:
    context: of the images that the paths are compared by, of another split.

  Raises:
    errors.InputError: the split is the validation split, or the primary figure is
      undefined on it.
  """
  if not options.sweep:
    return None
  if options.split == SPLIT:
    raise errors.InputError(
      f"a sweep of guidance with --split={SPLIT}",
      "conditions of another split: guidance is chosen on validation conditions",
    )
  runs = [run for path in paths for run in path.runs]
  try:
    unseen = eval_context_lib.of_split(
      context,
      runs,
      SPLIT,
      num=options.sweep_num,
      per_patient=options.per_patient,
      progress=progress,
    )
  except errors.InputError as error:
    reason = str(error).partition(";")[0]
    raise errors.InputError(
      f"a sweep of guidance on {SPLIT} conditions: {reason}",
      "images of two patients or more",
      "leave out --sweep, or set a larger config.data.validation_fraction",
    ) from error
  return Sweep(
    num=len(unseen.conditions),
    patients=unseen.conditions.num_patients,
    points={path.name: _of_path(unseen, path, options, progress) for path in paths},
  )


def choose(points: Sequence[SweepPoint]) -> float:
  """The scale of the best primary figure; of equal ones the smallest scale."""
  sign = 1 if points[0].primary.better == "lower" else -1

  def order(point: SweepPoint) -> tuple[float, float]:
    assert point.primary.value is not None
    return sign * point.primary.value, point.guidance

  return min(points, key=order).guidance


def at_best(options: Options, sweep: Sweep | None, path: str) -> Options:
  """The options with the path's own guidance; the same options without a sweep."""
  if sweep is None:
    return options
  return _with_guidance(options, sweep.chosen(path).guidance)


def _with_guidance(options: Options, scale: float) -> Options:
  changes = {**options.changes, "guidance": scale}
  return dataclasses.replace(options, changes=changes)


def _of_path(
  context: EvalContext,
  path: ConditioningPath,
  options: Options,
  progress: types.Progress,
) -> list[SweepPoint]:
  run, metric = path.runs[0], options.primary.partition(":")[0]
  weights = image_parts.weights_digest(run)
  names = [
    name for name in metric_lib.find_all() if name in (metric, _FIDELITY, _ADHERENCE)
  ]
  options = dataclasses.replace(options, metrics=tuple(names), memorisation_num=0)
  points = []
  for scale in options.sweep:
    changed = _with_guidance(options, scale)
    judged = path_assessment.assess_set(
      context,
      path_assessment.prepare(run, changed, options.seeds[0], weights),
      changed,
      progress=progress,
      kind="sweep",
      first=FIRST,
    )
    points.append(_point(context, judged.assessment.measurements, options, scale))
  best = choose(points)
  tried = ", ".join(f"{one.primary.value:.4g} at {one.guidance:g}" for one in points)
  logging.info("%s: %s %s; guidance %g", path.name, options.primary, tried, best)
  return [dataclasses.replace(point, chosen=point.guidance == best) for point in points]


def _point(
  context: EvalContext,
  measurements: Sequence[Measurement],
  options: Options,
  scale: float,
) -> SweepPoint:
  """A point's figures.

  Raises:
    errors.InputError: the primary figure is undefined.
  """
  by_key = {one.key: one for one in measurements if one.of == "generated"}
  extractor, num = context.preferred.name, len(context.conditions)

  def figure(name: str, judge: str) -> Measurement:
    key = primary_lib.key_of(name, list(by_key), judge)
    if key is None:
      raise errors.InputError(
        f"{name}, which a sweep of guidance does not measure",
        "a figure of generated images, to choose guidance by",
        "another --primary",
      )
    return by_key[key]

  primary = figure(options.primary, extractor)
  if primary.value is None:
    raise errors.InputError(
      f"a sweep of {num} images: {options.primary} is undefined: {primary.reason}",
      "a value, to choose guidance by",
      "a larger --sweep_num or config.data.validation_fraction, or another --primary",
    )
  return SweepPoint(
    guidance=scale,
    primary=primary,
    fidelity=figure(_FIDELITY, extractor),
    adherence=figure(_ADHERENCE, context.judge_name),
  )
