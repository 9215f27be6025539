"""Generates and judges the images of one conditioning path.

runs (training seeds) x sampling seeds --generate--> sets --assess--> figures
conditions of training, of one image a patient --> memorisation
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import pathlib

import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.encoders.extractors import opening as features_lib
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.evaluation import assessment
from cxr_diffusion_jax.evaluation import metric as metric_lib
from cxr_diffusion_jax.evaluation.comparison import elicitation, row_losses
from cxr_diffusion_jax.evaluation.comparison.paths import ConditioningPath
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import (
  loss_membership,
  memorisation,
  reidentification,
)
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import image_parts

FOLDER = "evaluation"

# Images with the same noise and the next condition: the effect of the condition.
NUM_SWAPPED = 32

# Conditions with several images each, and how many of each.
NUM_REPEATED, REPEATS = 16, 4

# Number of their noise, which no other image has.
FIRST_REPEAT = 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How paths are evaluated; the same for all of them.

  Attributes:
    num: conditions; None for those of patients with half of the split's images.
    per_patient: conditions of one patient at most; 0 for all of its images.
    primary: the figure that is named before the run: METRIC or METRIC:JUDGE. All others
      are exploratory.
    classifiers: files NAME.onnx or NAME.safetensors of the user's, as judges.
    segmenter: file NAME.onnx of the user's, of heart and lungs; "" for none.
    reidentification: file NAME.onnx of a network that recognises patients.
    changes: to the sample settings of the runs.
    sweep: guidance scales, of which each path's best is chosen; () for one common
      scale.
    sweep_num: validation conditions at each scale, at most.
    memorisation_num: conditions of training images, of one patient each, for two
      images each; losses of eight times as many patients are compared. 0 for none.
    memorisation_reference: RUN or RUN@STEP, whose losses are subtracted; "" for none.
    classifier_network: of the probe and of utility's classifiers; see `probe_settings`.
    classifier_patience: checks without growth that end a training; 0 for the default.
    probe_steps: updates of the probe at most; 0 for the default.
    utility_num: images to train a classifier on; 0 for as many as are real.
    utility_ratios: of generated images that are added to real ones, 1 to 5.
    utility_balanced: whether the conditions of these have each finding equally often.
    utility_steps: updates of each of them at most; 0 for the default.
    reader_num: images of each path, and real ones, in the reader sheet; 0 for none.
    elixr_models: folder or hub id of ELIXR's SavedModels; "" for a stand-in, if any.
  """

  split: str = "test"
  num: int | None = None
  per_patient: int = 1
  primary: str = "frechet_distance"
  seeds: Sequence[int] = (0,)
  features: Sequence[str] = ("auto",)
  weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
  classifiers: Sequence[str] = ()
  metrics: Sequence[str] = tuple(assessment.MEASURES)
  changes: artifacts.JsonMapping = dataclasses.field(default_factory=dict)
  batch_size: int = 32
  sweep: Sequence[float] = ()
  sweep_num: int = 128
  memorisation_num: int = 64
  memorisation_reference: str = ""
  classifier_network: str = ""
  classifier_patience: int = 0
  probe_steps: int = 0
  utility_num: int = 0
  utility_ratios: Sequence[int] = (1,)
  utility_balanced: bool = False
  utility_steps: int = 0
  utility_fractions: Sequence[float] = (0.01, 0.1, 0.3, 1.0)
  reader_num: int = 10
  elixr_models: str = ""
  segmenter: str = ""
  reidentification: str = ""

  @functools.cached_property
  def records(self) -> tuple[Metric, ...]:
    """The selected metrics."""
    return metric_lib.select(self.metrics)

  def classifier_changes(self, num_steps: int) -> artifacts.Json:
    """Changes to the default settings of the classifiers that are trained."""
    given = {
      "network": self.classifier_network,
      "patience": self.classifier_patience,
      "num_steps": num_steps,
    }
    return {name: value for name, value in given.items() if value}

  @property
  def elicits(self) -> bool:
    """Whether images of training conditions are searched for copies."""
    metrics = {*memorisation.METRICS, *reidentification.METRICS}
    return bool({*self.records} & metrics)

  def wants(self, subject: str) -> bool:
    """Whether any metric of a subject is selected."""
    return any(record.subject == subject for record in self.records)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class JudgedSet:
  """The images of one run and one sampling seed."""

  generator: image_parts.PartGenerator
  generated: assessment.GeneratedSet
  assessment: assessment.Assessment


def folder_of(run: run_lib.Run) -> pathlib.Path:
  """Where the evaluation of a checkpoint is kept: WORKDIR/evaluation/STEP."""
  if artifacts.is_remote(run.folder):
    raise errors.InputError(
      f"the run {run.folder} is in a bucket",
      "a local folder, which also receives the generated images",
      "copy the run's folder to this machine",
    )
  name = str(run.checkpoint_step)
  if run.ema_length is not None:
    name += f"-ema_{run.ema_length:g}"
  return pathlib.Path(run.folder) / FOLDER / name


def assess_path(
  context: EvalContext,
  path: ConditioningPath,
  options: Options,
  progress: types.Progress = types.no_progress,
) -> list[list[JudgedSet]]:
  """Generates and judges: [run][seed], all for the same conditions."""
  sets = []
  for run in path.runs:
    weights = image_parts.weights_digest(run)
    of_run = _losses(run, options, progress)
    generators = [prepare(run, options, seed, weights) for seed in options.seeds]
    sets.append(
      [assess_set(context, one, options, of_run, progress) for one in generators]
    )
  return sets


def prepare(
  run: run_lib.Run, options: Options, seed: int, weights: str = ""
) -> image_parts.PartGenerator:
  """A generator into the run's folder, with the options' sampling settings."""
  return image_parts.prepare(
    run,
    folder_of(run) / "generated",
    seed=seed,
    changes=options.changes,
    batch_size=options.batch_size,
    weights=weights,
  )


def _losses(
  run: run_lib.Run, options: Options, progress: types.Progress
) -> Sequence[Measurement]:
  """Figures of a run that do not depend on generated images."""
  wanted = {*options.records} & {*loss_membership.METRICS}
  if not (options.memorisation_num and wanted):
    return []
  figures = row_losses.measure(
    run,
    options.memorisation_num,
    folder_of(run) / "losses",
    reference=options.memorisation_reference,
    batch_size=options.batch_size,
    progress=progress,
  )
  return assessment.keep(figures, list(wanted))


def assess_set(
  context: EvalContext,
  generator: image_parts.PartGenerator,
  options: Options,
  of_run: Sequence[Measurement] = (),
  progress: types.Progress = types.no_progress,
  *,
  kind: str = "images",
  first: int = 0,
) -> JudgedSet:
  """Generates and judges an image for each condition of the context.

  Args:
    of_run: figures of the run itself, which are added.
    kind: names the purpose, and the folder of the images.
    first: number of the first image, which determines its noise.
  """
  ids = context.conditions.ids.tolist()
  of_rows, context = context, context.of_run(generator.run)
  name = f"{generator.run.folder.name}, seed {generator.seed}"
  generate = functools.partial(image_parts.generate, generator, progress=progress)
  asked = image_requests(ids, options, kind, first)
  images = generate(**asked[kind])
  cache = generator.folder / "features"
  extract = functools.partial(features_lib.extract, cache=cache, progress=progress)
  features = {
    extractor.name: extract(extractor, images, key=f"{kind}-{len(ids)}")
    for extractor in context.extractors
  }
  repeats, repeat_features = None, {}
  if "repeats" in asked:
    repeats, repeat_features = _repeats(
      generate(**asked["repeats"]), extract, context.extractors
    )
  elicited = None
  if options.elicits:
    elicited = elicitation.elicit(
      of_rows, generator, options.memorisation_num, images, features, progress=progress
    )
  generated = assessment.GeneratedSet(
    images=dataclasses.replace(context.conditions, name=name, images=images),
    features=features,
    repeats=repeats,
    repeat_features=repeat_features,
    elicited=elicited,
  )
  judged = assessment.assess(
    context, generated, options.records, folder=generator.folder, progress=progress
  )
  figures = [*judged.measurements, *of_run]
  if "swapped" in asked:
    changes = adherence.changes(images, generate(**asked["swapped"]))
    wanted = {record.name for record in options.records}
    figures += [one for one in changes if one.metric in wanted]
  judged = dataclasses.replace(judged, measurements=figures)
  return JudgedSet(generator=generator, generated=generated, assessment=judged)


def image_requests(
  ids: Sequence[str], options: Options, kind: str = "images", first: int = 0
) -> dict[str, artifacts.Json]:
  """The images to generate for conditions: name -> arguments of `image_parts.generate`.

  Args:
    ids: of the images that the conditions are of.
    kind: names the purpose of one image for each of them.
    first: number of the first of these.
  """
  asked = {kind: {"image_ids": ids, "name": kind, "first": first}}
  if options.wants("diversity"):
    repeated = np.repeat(ids[:NUM_REPEATED], REPEATS).tolist()
    asked["repeats"] = {"image_ids": repeated, "name": "repeats", "first": FIRST_REPEAT}
  if {one.name for one in options.records} & {one.name for one in adherence.CHANGES}:
    # The same number has the same noise: the condition alone differs.
    swapped = [*ids[1:], ids[0]][:NUM_SWAPPED]
    asked["swapped"] = {"image_ids": swapped, "name": "swapped"}
  return asked


def _repeats(
  flat: types.Arrays,
  extract: Callable[..., np.ndarray],
  extractors: Sequence[Extractor],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Images [n r h w 1] of the first conditions and features [n r d]; `flat`: [nr ...].

  `extract` is that of one set.
  """
  shape = (len(flat) // REPEATS, REPEATS)
  images = np.stack([flat[row] for row in range(len(flat))])
  return images.reshape(*shape, *images.shape[1:]), {
    one.name: extract(one, flat, key="repeats").reshape(*shape, -1)
    for one in extractors
  }
