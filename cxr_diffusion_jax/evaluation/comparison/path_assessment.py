"""All images of one conditioning path, generated and judged.

runs (training seeds) x sampling seeds --generate--> sets --assess--> figures
first run, first seed --other guidance--> sweep; --conditions of training--> utility
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.evaluation import assessment, image_set
from cxr_diffusion_jax.evaluation import eval_context as bench_lib
from cxr_diffusion_jax.evaluation import features as features_lib
from cxr_diffusion_jax.evaluation.comparison.data import SweepPoint
from cxr_diffusion_jax.evaluation.comparison.paths import Path
from cxr_diffusion_jax.evaluation.eval_context import Bench
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import fidelity_table
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import image_parts

FOLDER = "evaluation"

# Images of the same noise and the next condition: what the condition alone changes.
NUM_SWAPPED = 32

# Conditions that several images are made of, and how many of each.
NUM_REPEATED, REPEATS = 16, 4

# Numbers of their noise: no other image has it.
FIRST_REPEAT, FIRST_TRAINING = 10**6, 2 * 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How paths are evaluated; the same for all of them.

  Attributes:
    split: of the conditions.
    num: conditions; None for half of the split.
    seeds: of the noise.
    features: names of extractors, or "auto".
    weights: extractor -> where its weights are.
    subjects: of `measurement.SUBJECTS`.
    changes: of the runs' own sample settings.
    batch_size: images a call.
    sweep: guidance scales; () for none.
    sweep_num: conditions at each of them.
    utility_num: images that a classifier is trained on; 0 for as many as are real.
    utility_steps: updates of each of these classifiers.
    utility_fractions: of the real training images, for label efficiency.
    reader_num: images of each path, and real ones, in the reader sheet; 0 for none.
    elixr_models: folder or hub id of ELIXR's SavedModels, to judge with; "" for the
      stand-in where there is one.
  """

  split: str = "test"
  num: int | None = None
  seeds: Sequence[int] = (0,)
  features: Sequence[str] = ("auto",)
  weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
  subjects: Sequence[str] = tuple(assessment.MEASURES)
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  batch_size: int = 32
  sweep: Sequence[float] = ()
  sweep_num: int = 128
  utility_num: int = 0
  utility_steps: int = 300
  utility_fractions: Sequence[float] = (0.01, 0.1, 0.3, 1.0)
  reader_num: int = 10
  elixr_models: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Set:
  """The images of one run and one sampling seed.

  Attributes:
    generator: that made them.
    made: the images and their features.
    assessment: what was found.
  """

  generator: image_parts.Generator
  made: assessment.Made
  assessment: assessment.Assessment


def folder_of(run: run_lib.Run) -> pathlib.Path:
  """Where all that is evaluated of a checkpoint is kept: WORKDIR/evaluation/STEP."""
  name = str(run.checkpoint_step)
  if run.ema_length is not None:
    name += f"-ema_{run.ema_length:g}"
  return run.folder / FOLDER / name


def assess_path(
  bench: Bench,
  path: Path,
  options: Options,
  progress: types.Progress = types.no_progress,
) -> list[list[Set]]:
  """Generates and judges: [run][seed], all for the same conditions.

  Args:
    bench: what they are judged by.
    path: its runs.
    options: how.
    progress: told during long work.
  """
  sets = []
  for run in path.runs:
    weights = image_parts.weights_digest(run)
    sets.append([
      _assess(bench, _generator(run, options, seed, weights), options, progress)
      for seed in options.seeds
    ])  # fmt: skip
  return sets


def sweep(
  bench: Bench,
  path: Path,
  options: Options,
  progress: types.Progress = types.no_progress,
) -> list[SweepPoint]:
  """Fidelity and adherence of the first run at several guidance scales."""
  points = []
  run, extractor = path.runs[0], bench_lib.preferred(bench.extractors)
  weights = image_parts.weights_digest(run)
  ids = bench.conditions.ids[: options.sweep_num]
  asked = np.asarray(bench.conditions.labels["findings"])[: len(ids)]
  for guidance in options.sweep:
    changed = dataclasses.replace(
      options, changes={**options.changes, "guidance": guidance}
    )
    generator = _generator(run, changed, options.seeds[0], weights)
    images = image_parts.generate(generator, ids.tolist(), progress=progress)
    features = features_lib.extract(
      extractor, images, cache=generator.folder / "features", key=f"first-{len(ids)}"
    )
    try:
      (distance,) = fidelity_table.measure(
        bench.features[extractor.name]["reference"],
        features,
        held_out=None,
        extractor=extractor,
        groups=None,
        metrics=("frechet_distance",),
      )
      figures = adherence.measure(
        bench.judge.scores(images), asked, bench.judge.thresholds
      )
    except errors.InputError as error:
      raise errors.InputError(
        f"a sweep of {len(ids)} images: {error.got}", fix="a larger --sweep_num"
      ) from error
    auroc = Measurement(
      subject="adherence",
      metric="auroc",
      num=len(ids),
      judge=bench.judge_name,
      standin=True,
      better="higher",
      **dataclasses.asdict(figures.macro["auroc"]),
    )
    points.append(SweepPoint(guidance=guidance, fidelity=distance, adherence=auroc))
  return points


def training_images(
  bench: Bench,
  path: Path,
  options: Options,
  progress: types.Progress = types.no_progress,
) -> image_set.ImageSet:
  """Images of the first run for conditions of training images, to train on."""
  run = path.runs[0]
  generator = _generator(
    run, options, options.seeds[0], image_parts.weights_digest(run)
  )
  count = min(options.utility_num or len(bench.training), len(bench.training))
  # Only those that have a condition, in an order that no patient's place decides.
  usable = np.flatnonzero(np.isin(bench.training.ids, run.dataset.ids("train")))
  rows = np.random.default_rng(0).permutation(usable)[:count]
  asked = bench.training.take(rows, name=path.name)
  images = image_parts.generate(
    generator,
    asked.ids.tolist(),
    name="training",
    first=FIRST_TRAINING,
    progress=progress,
  )
  return dataclasses.replace(asked, images=images)


def _generator(
  run: run_lib.Run, options: Options, seed: int, weights: str
) -> image_parts.Generator:
  return image_parts.prepare(
    run,
    folder_of(run) / "generated",
    seed=seed,
    changes=options.changes,
    batch_size=options.batch_size,
    weights=weights,
  )


def _assess(
  bench: Bench,
  generator: image_parts.Generator,
  options: Options,
  progress: types.Progress,
) -> Set:
  ids = bench.conditions.ids.tolist()
  generate = functools.partial(image_parts.generate, generator, progress=progress)
  images = generate(ids)
  name = f"{generator.run.folder.name}, seed {generator.seed}"
  cache = generator.folder / "features"
  extract = functools.partial(features_lib.extract, cache=cache, progress=progress)
  features = {
    extractor.name: extract(extractor, images, key=f"images-{len(ids)}")
    for extractor in bench.extractors
  }
  repeated = np.repeat(ids[:NUM_REPEATED], REPEATS).tolist()
  repeats = None
  repeat_features = {}
  if "diversity" in options.subjects:
    flat = generate(repeated, name="repeats", first=FIRST_REPEAT)
    shape = (len(repeated) // REPEATS, REPEATS)
    repeats = np.stack(list(flat)).reshape(*shape, *flat[0].shape)
    repeat_features = {
      extractor.name: extract(extractor, flat, key="repeats").reshape(*shape, -1)
      for extractor in bench.extractors
    }
  made = assessment.Made(
    images=dataclasses.replace(bench.conditions, name=name, images=images),
    features=features,
    repeats=repeats,
    repeat_features=repeat_features,
  )
  subjects = [one for one in assessment.MEASURES if one in options.subjects]
  found = assessment.assess(
    bench, made, subjects, keep=generator.folder, progress=progress
  )
  if "adherence" in subjects:
    # Same number, same noise: the condition alone differs.
    swapped = generate([*ids[1:], ids[0]][:NUM_SWAPPED], name="swapped")
    found = dataclasses.replace(
      found, measurements=[*found.measurements, *_effects(images, swapped)]
    )
  return Set(generator=generator, made=made, assessment=found)


def _effects(
  images: Sequence[np.ndarray], swapped: Sequence[np.ndarray]
) -> list[Measurement]:
  """How much the condition alone, and condition and noise, change an image.

  Mean absolute differences in grey levels of 255: of images with the same noise and
  different conditions, and of images with different noise and conditions.
  """
  n = len(swapped)
  own = np.stack([images[i] for i in range(n)]).astype(np.float32)
  other = np.stack(list(swapped)).astype(np.float32)
  both = np.abs(own - np.roll(own, -1, axis=0)).mean()
  told = {
    "change_by_condition": np.abs(own - other).mean(),
    "change_by_condition_and_noise": both,
  }
  return [
    Measurement(subject="adherence", metric=metric, value=float(value), num=n)
    for metric, value in told.items()
  ]
