"""Compares conditioning paths: the same test images, the same noise, the same judges.

workdirs -> paths --sweep, on validation conditions--> guidance of each path
paths --assess_path--> judged sets --pool, verdicts--> Comparison
  -> metrics.json, and a page by `report.comparison`
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib

from cxr_diffusion_jax import types
from cxr_diffusion_jax.evaluation import assessment
from cxr_diffusion_jax.evaluation import eval_context as eval_context_lib
from cxr_diffusion_jax.evaluation.comparison import (
  ceilings,
  path_assessment,
  pooling,
  utility_paths,
)
from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.evaluation.comparison import facts as comparison_facts
from cxr_diffusion_jax.evaluation.comparison import paths as paths_lib
from cxr_diffusion_jax.evaluation.comparison import primary as primary_lib
from cxr_diffusion_jax.evaluation.comparison import sweep as sweep_lib
from cxr_diffusion_jax.evaluation.comparison.data import (
  Comparison,
  PathResult,
  SweepPoint,
)
from cxr_diffusion_jax.evaluation.comparison.path_assessment import JudgedSet, Options
from cxr_diffusion_jax.evaluation.comparison.paths import ConditioningPath
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.measurement import Key, Measurement
from cxr_diffusion_jax.evaluation.metrics import utility
from cxr_diffusion_jax.run import loss_curves

# Judged sets of each path: [run][sampling seed].
_Sets = Mapping[str, Sequence[Sequence[JudgedSet]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Extras:
  """Figures of the first run of a path, and of real images with the same method."""

  measurements: Sequence[Measurement] = ()
  curve: Sequence[utility.CurvePoint] = ()


def compare(
  paths: Sequence[ConditioningPath],
  out: pathlib.Path,
  options: Options,
  *,
  title: str = "",
  progress: types.Progress = types.no_progress,
) -> Comparison:
  """Compares paths; images and figures of earlier calls are reused.

  Raises:
    errors.InputError: too few images, unavailable features, a run that cannot be
      sampled.
  """
  runs = [run for path in paths for run in path.runs]
  for run in runs:
    # Refuses buckets before any long work.
    path_assessment.folder_of(run)
  earlier = primary_lib.declare(options.primary, out) if len(paths) > 1 else []
  context = eval_context_lib.of_runs(
    runs,
    split=options.split,
    num=options.num,
    per_patient=options.per_patient,
    features=options.features,
    weights=options.weights,
    classifiers=options.classifiers,
    probe_changes=options.classifier_changes(options.probe_steps),
    elixr_models=options.elixr_models,
    segmenter=options.segmenter,
    reidentification=options.reidentification,
    progress=progress,
  )
  sweep = sweep_lib.measure(context, paths, options, progress)
  options_of = {
    path.name: sweep_lib.at_best(options, sweep, path.name) for path in paths
  }
  sets = {
    path.name: path_assessment.assess_path(
      context, path, options_of[path.name], progress
    )
    for path in paths
  }
  extras = {
    path.name: _extras(context, path, options_of[path.name], progress) for path in paths
  }
  real = _real(context, sets, extras, options, progress)
  if options.wants("embeddings"):
    figures = ceilings.of_embeddings(
      context, runs, elixr_models=options.elixr_models, progress=progress
    )
    real += assessment.keep(figures, options.records)
  compared = _comparison(context, paths, sets, extras, real, options, sweep, title)
  compared = dataclasses.replace(compared, warnings=[*earlier, *compared.warnings])
  comparison_data.write_metrics(compared, out)
  return compared


def _comparison(
  context: EvalContext,
  paths: Sequence[ConditioningPath],
  sets: _Sets,
  extras: Mapping[str, _Extras],
  real: Sequence[Measurement],
  options: Options,
  sweep: sweep_lib.Sweep | None,
  title: str,
) -> Comparison:
  """Pools the sets of each path and tests paths against each other."""
  pooled, spreads = {}, {}
  for name, of_path in sets.items():
    figures = [[one.assessment.measurements for one in run] for run in of_path]
    pooled[name], spreads[name] = pooling.pool(figures)
  otherwise = paths_lib.asking_otherwise(paths, context)
  unranked_fn = functools.partial(paths_lib.unranked, paths, otherwise=otherwise)
  pooled = pooling.share_intervals(pooled, spreads, unranked_fn)
  results = [
    _result(
      context,
      path,
      sets[path.name],
      pooled[path.name],
      extras[path.name],
      sweep.points[path.name] if sweep else (),
    )
    for path in paths
  ]
  better = {one.key: one.better for result in results for one in result.measurements}
  shown = comparison_facts.shown(context)
  roots = context.settings.roots if context.settings else (context.split,)
  name = "+".join(pathlib.Path(root).name for root in roots)
  return Comparison(
    title=title or f"Conditioning paths on {name}",
    facts=comparison_facts.of_paths(context, paths, sets, options, sweep),
    warnings=[
      *paths_lib.warnings(paths),
      *(sweep.warnings if sweep else ()),
      *comparison_facts.few_positives(context),
    ],
    differences=paths_lib.differing({path.name: path.config for path in paths}),
    paths=results,
    real=real,
    verdicts=pooling.verdicts(
      spreads,
      better,
      unranked_fn=unranked_fn,
      primary=primary_lib.key_of(options.primary, list(better), context.preferred.name),
    ),
    shown=comparison_facts.stack(context.conditions.images, shown),
    captions=comparison_facts.captions(context),
    real_features={
      name: of_sets["reference"] for name, of_sets in context.features.items()
    },
    limitations=comparison_facts.limitations(context, swept=bool(sweep)),
    reference=context.reference,
  )


def _extras(
  context: EvalContext,
  path: ConditioningPath,
  options: Options,
  progress: types.Progress,
) -> _Extras:
  if not options.wants("utility") or context.training is None or not context.records:
    return _Extras()
  report = utility_paths.measure(context, path, options, progress)
  figures = assessment.keep(report.measurements, options.records)
  return _Extras(measurements=figures, curve=report.curve)


def _result(
  context: EvalContext,
  path: ConditioningPath,
  sets: Sequence[Sequence[JudgedSet]],
  pooled: Sequence[Measurement],
  extras: _Extras,
  points: Sequence[SweepPoint],
) -> PathResult:
  first = sets[0][0]
  images = first.generated.images.images
  of_extras = [one for one in extras.measurements if one.of == "generated"]
  shown, own = comparison_facts.shown(context), context.of_run(path.runs[0])
  references = ()
  if own is not context:
    references = comparison_facts.stack(own.conditions.images, shown)
  return PathResult(
    name=path.name,
    runs=[run.name for run in path.runs],
    images=comparison_facts.stack(images, shown),
    references=references,
    measurements=[*pooled, *of_extras],
    features=first.generated.features,
    losses={run.name: loss_curves.read(run.folder) for run in path.runs},
    generated=first.generated.images,
    sweep=points,
    **comparison_facts.neighbours(context, images, first.assessment),
    **comparison_facts.elicited(first.generated, first.assessment),
    description=path.runs[0].card.kind,
    curve=extras.curve,
  )


def _real(
  context: EvalContext,
  sets: _Sets,
  extras: Mapping[str, _Extras],
  options: Options,
  progress: types.Progress,
) -> list[Measurement]:
  """Floors and ceilings, which are the same for all sets: each once."""
  tables: list[Sequence[Measurement]] = []
  if options.wants("fidelity"):
    tables.append(assessment.floors(context, options.records, progress))
  if options.wants("adherence"):
    tables.append(assessment.keep(context.ceilings, options.records))
    tables.append(ceilings.by_experts(context, options.records))
  tables += [of_path[0][0].assessment.measurements for of_path in sets.values()]
  tables += [one.measurements for one in extras.values()]
  figures: dict[Key, Measurement] = {}
  for one in (one for table in tables for one in table):
    if one.of == "real":
      figures.setdefault(one.key, one)
  return list(figures.values())
