"""Conditioning paths side by side: the same test images, the same noise, one judge.

workdirs -> paths --assess_path--> sets --pool, verdicts--> Comparison
  -> metrics.json, and what `comparison_page` makes of it
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.data.sources.nih import google_labels, layout
from cxr_diffusion_jax.evaluation import assessment, measurement
from cxr_diffusion_jax.evaluation import eval_context as bench_lib
from cxr_diffusion_jax.evaluation.comparison import facts as comparison_facts
from cxr_diffusion_jax.evaluation.comparison import path_assessment, pooling
from cxr_diffusion_jax.evaluation.comparison import paths as paths_lib
from cxr_diffusion_jax.evaluation.comparison.data import (
  Comparison,
  PathResult,
  Verdict,
)
from cxr_diffusion_jax.evaluation.comparison.path_assessment import Options, Set
from cxr_diffusion_jax.evaluation.comparison.paths import Path
from cxr_diffusion_jax.evaluation.eval_context import Bench
from cxr_diffusion_jax.evaluation.judges import (
  embedding_classifier,
  probe_fit,
  zero_shot,
)
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import utility
from cxr_diffusion_jax.run import loss_curves
from cxr_diffusion_jax.run import run as run_lib

METRICS = "metrics.json"

# Columns that the classifier of embeddings takes.
EMBEDDINGS = ("img_emb", "elixrc")


def compare(
  paths: Sequence[Path],
  out: pathlib.Path,
  options: Options,
  *,
  title: str = "",
  progress: types.Progress = types.no_progress,
) -> Comparison:
  """Compares paths; what was generated or measured before is not made again.

  Args:
    paths: of `paths.open_paths`, on the same records; one may be alone.
    out: receives metrics.json.
    options: how they are evaluated.
    title: of the comparison.
    progress: told during long work.

  Returns:
    All that was found.

  Raises:
    errors.InputError: too few images, features that are not there, a run that cannot be
      sampled.
  """
  runs = [run for path in paths for run in path.runs]
  bench = bench_lib.of_runs(
    runs,
    split=options.split,
    num=options.num,
    features=options.features,
    weights=options.weights,
    elixr_models=options.elixr_models,
    progress=progress,
  )
  sets = {
    path.name: path_assessment.assess_path(bench, path, options, progress)
    for path in paths
  }
  pooled = {name: _pooled(of_path) for name, of_path in sets.items()}
  more = {path.name: _of_path(bench, path, options, progress) for path in paths}
  results = [
    _result(bench, path, sets[path.name], pooled[path.name][0], more[path.name])
    for path in paths
  ]
  real = _real(bench, sets, more, options, progress)
  if "embeddings" in options.subjects:
    real += _embeddings(bench, runs, options, progress)
  compared = Comparison(
    title=title or f"Conditioning paths on {pathlib.Path(bench.settings.root).name}",
    facts=comparison_facts.of_paths(bench, paths, sets, options),
    warnings=paths_lib.warnings(paths),
    differences=paths_lib.differing({path.name: path.config for path in paths}),
    paths=results,
    reference=bench.reference,
    real=real,
    verdicts=_verdicts(results, pooled),
    shown=comparison_facts.stack(
      bench.conditions.images, comparison_facts.shown(bench)
    ),
    captions=comparison_facts.captions(bench),
    real_features={
      name: of_sets["reference"] for name, of_sets in bench.features.items()
    },
    limitations=comparison_facts.limitations(bench),
  )
  write_metrics(compared, out / METRICS)
  return compared


def write_metrics(compared: Comparison, path: pathlib.Path) -> None:
  """Writes every figure as JSON; None where undefined, with the reason."""
  values = {
    "schema": measurement.SCHEMA,
    "facts": dict(compared.facts),
    "warnings": list(compared.warnings),
    "paths": {
      result.name: {
        "runs": list(result.runs),
        "data": result.description,
        "last_losses": {
          run: {tag: values[-1] for tag, (_, values) in of_run.items()}
          for run, of_run in result.losses.items()
        },
        "measurements": [measurement.to_json(one) for one in result.measurements],
        "sweep": [dataclasses.asdict(point) for point in result.sweep],
        "label_efficiency": [
          {"fraction": fraction, "arm": arm, "auroc": measurement.to_json(auroc)}
          for fraction, arm, auroc in result.curve
        ],
      }
      for result in compared.paths
    },
    "real": [measurement.to_json(one) for one in compared.real],
    "verdicts": [dataclasses.asdict(one) for one in compared.verdicts],
  }
  artifacts.write_text(path, json.dumps(values, indent=1) + "\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _More:
  """What is measured of one run of a path alone, and of real images beside it."""

  measurements: Sequence[Measurement] = ()
  sweep: Sequence[Any] = ()
  curve: Sequence[Any] = ()


def _of_path(
  bench: Bench,
  path: Path,
  options: Options,
  progress: types.Progress,
) -> _More:
  points = path_assessment.sweep(bench, path, options, progress)
  if "utility" not in options.subjects:
    return _More(sweep=points)
  images = path_assessment.training_images(bench, path, options, progress)
  report = utility.measure(
    bench.training,
    images,
    bench.reference,
    path_assessment.folder_of(path.runs[0]) / "utility",
    settings=utility.UtilitySettings(
      network=probe_fit.ProbeSettings(
        # Half the probe's sides: many are trained.
        stem_stride=max(4, bench.records.image_size // 16),
        num_steps=options.utility_steps,
      ),
      fractions=tuple(options.utility_fractions),
    ),
    shared_folder=bench.records.folder / "utility",
    progress=progress,
  )
  return _More(measurements=report.measurements, sweep=points, curve=report.curve)


def _embeddings(
  bench: Bench,
  runs: Sequence[run_lib.Run],
  options: Options,
  progress: types.Progress,
) -> list[Measurement]:
  """What the real images' own embeddings tell of their findings: a check of these."""
  columns = {
    column.description.name: column for run in runs for column in run.dataset.columns
  }
  tree = layout.find_tree(bench.settings.root)
  expert = None
  if tree.google_labels:
    expert = google_labels.read_google_labels(tree.google_labels)
  found = []
  for name in EMBEDDINGS:
    if name in columns:
      found += judges_lib.attempt(
        *("embeddings", "auroc", len(bench.training)),
        lambda column=columns[name]: embedding_classifier.measure(
          bench.records, column, expert=expert, cache=bench.cache, progress=progress
        ),
        judge=name,
        of="real",
      )
  stored = columns.get(zero_shot.IMAGES)
  scorer = None
  if stored is not None:
    scorer = zero_shot.open_scorer(bench.settings, elixr_models=options.elixr_models)
  if isinstance(scorer, zero_shot.Scorer):
    labelled = bench.records.fields(bench.split)["findings"]
    found += judges_lib.attempt(
      *("adherence", "auroc", len(labelled)),
      lambda: zero_shot.measure_column(scorer, stored, bench.split, labelled),
      judge=f"{zero_shot.JUDGE}, stored",
      of="real",
    )
  return found


def _result(
  bench: Bench,
  path: Path,
  sets: Sequence[Sequence[Set]],
  pooled: Sequence[Measurement],
  more: _More,
) -> PathResult:
  first = sets[0][0]
  images = first.made.images.images
  own = [one for one in more.measurements if one.of == "generated"]
  return PathResult(
    name=path.name,
    runs=[run.folder.name for run in path.runs],
    images=comparison_facts.stack(images, comparison_facts.shown(bench)),
    measurements=[*pooled, *own],
    features=first.made.features,
    losses={run.folder.name: loss_curves.read(run.folder) for run in path.runs},
    generated=first.made.images,
    sweep=more.sweep,
    **comparison_facts.neighbours(bench, images, first.assessment),
    description=path.runs[0].card.kind,
    curve=more.curve,
  )


def _pooled(
  of_path: Sequence[Sequence[Set]],
) -> tuple[list[Measurement], dict[tuple, pooling.Spread]]:
  return pooling.pool([[one.assessment.measurements for one in run] for run in of_path])


def _verdicts(
  results: Sequence[PathResult],
  pooled: Mapping[str, tuple[list[Measurement], dict[tuple, pooling.Spread]]],
) -> list[Verdict]:
  better = {
    one.key: one.better
    for result in results
    for one in result.measurements
    if one.better
  }
  spreads = {name: by_key for name, (_, by_key) in pooled.items()}
  return pooling.verdicts(spreads, better)


def _real(
  bench: Bench,
  sets: Mapping[str, Sequence[Sequence[Set]]],
  more: Mapping[str, _More],
  options: Options,
  progress: types.Progress,
) -> list[Measurement]:
  """Floors and ceilings: the same for all sets, so each is taken once."""
  found: dict[tuple, Measurement] = {}
  every: list[Sequence[Measurement]] = []
  if "fidelity" in options.subjects:
    every.append(assessment.floors(bench, progress=progress))
  if "adherence" in options.subjects:
    every.append(bench.ceilings)
  every += [of_path[0][0].assessment.measurements for of_path in sets.values()]
  every += [one.measurements for one in more.values()]
  for measurements in every:
    for one in measurements:
      if one.of == "real":
        found.setdefault(one.key, one)
  return list(found.values())
