"""Judges images of any model by their files alone: two folders, and labels if any.

real folder --by patient--> judge's training | held out (the floor) | reference
synthetic folder, less images of patients of the judge's training or the reference
  --extractors, judge--> figures, as those of a run

Without a given probe, real images with findings are split: three fifths train and
validate the judge, and only the others are compared with anything. Patients with
synthetic images are the first that are held out, and the last that train the judge.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.image_sets import folder as image_folder
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors import classifiers as classifiers_lib
from cxr_diffusion_jax.encoders.extractors import opening as features_lib
from cxr_diffusion_jax.encoders.probes import probe
from cxr_diffusion_jax.evaluation import assessment, selection
from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.evaluation.comparison import facts as comparison_facts
from cxr_diffusion_jax.evaluation.comparison import pooling
from cxr_diffusion_jax.evaluation.comparison.data import Comparison, PathResult
from cxr_diffusion_jax.evaluation.comparison.path_assessment import Options
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.evaluation.measurement import Measurement

# Fewest real images with findings that a judge is trained on.
MIN_TRAINING = 100

# Fewest synthetic images that remain, where those of shared patients are left out.
MIN_REMAINING = 20

# What folders of images are not judged by.
NEED_CONDITIONS = ("anatomy", "anatomy by a segmenter", "boxes", "re-identification")

# Shares of real images for the judge's training and for its thresholds.
TRAINING_SHARE, VALIDATION_SHARE = 0.5, 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folders:
  """Where images are."""

  real: str
  synthetic: str
  training: str | None = None  # the model's training images
  labels: str | None = None  # CSV of findings of either
  probe: str | None = None
  image_size: int | None = None  # that all are resized to


def compare(
  folders: Folders,
  out: pathlib.Path,
  options: Options,
  *,
  progress: types.Progress = types.no_progress,
) -> Comparison:
  """Judges the synthetic folder.

  Raises:
    errors.InputError: folders that do not match, too few images, or no extractor.
  """
  real, synthetic = image_folder.read_pair(
    folders.real,
    folders.synthetic,
    folders.labels,
    image_size=folders.image_size,
    progress=progress,
  )
  training = None
  if folders.training:
    training = image_folder.read(
      folders.training, image_size=folders.image_size, progress=progress
    )
    image_folder.check_pair(real, training)
  parts, rest = _divide(real, synthetic, folders)
  held_out, reference = selection.choose(
    rest.ids, rest.patients, per_patient=options.per_patient, first=synthetic.patients
  )
  synthetic, overlap = _of_others(synthetic, real, rest.patients[held_out])
  judge = _judge(parts, folders, out, options, progress)
  extractors, skipped = features_lib.open_extractors(
    options.features, probe_fn=lambda: judge, weights=options.weights
  )
  if not extractors:
    raise errors.InputError(
      "no network to extract features with",
      "weights, a probe, or findings of real images to train one on",
      "--weights rad_dino=FOLDER, --probe FOLDER, or --labels of the real images too",
    )
  sets = {
    # As many as are synthetic, for the floor.
    "conditions": rest.take(held_out[: len(synthetic)], "real, held out"),
    "reference": rest.take(reference, "real, other patients"),
  }
  context = _context(sets, training, judge, extractors, progress)
  context = _with_judges(context, options, skipped, parts.get("validation"), progress)
  generated = assessment.GeneratedSet(
    images=synthetic,
    features={
      one.name: features_lib.extract(
        one, synthetic.images, key="synthetic", progress=progress
      )
      for one in extractors
    },
  )
  judged = assessment.assess(context, generated, options.records, progress=progress)
  pooled, _ = pooling.pool([[judged.measurements]])
  compared = _comparison(context, generated, judged, pooled, options, overlap)
  comparison_data.write_metrics(compared, out)
  return compared


def _context(
  sets: dict[str, ImageSet],
  training: ImageSet | None,
  judge: probe.Probe | None,
  extractors: Sequence[features_lib.Extractor],
  progress: types.Progress,
) -> EvalContext:
  if training is not None:
    sets = {**sets, "training": training}
  features = {
    one.name: {
      name: features_lib.extract(one, images.images, key=name, progress=progress)
      for name, images in sets.items()
    }
    for one in extractors
  }
  return EvalContext(
    split="real",
    conditions=sets["conditions"],
    reference=sets["reference"],
    training=training,
    judge=judge,
    judges=(),
    extractors=extractors,
    skipped={},
    features=features,
    aligned=False,
  )


def _with_judges(
  context: EvalContext,
  options: Options,
  skipped: Mapping[str, str],
  validation: ImageSet | None,
  progress: types.Progress,
) -> EvalContext:
  classifiers = classifiers_lib.open_classifiers(
    options.weights, context.extractors, options.classifiers
  )
  judges, without = judges_lib.open_judges(
    context.judge,
    context.judge_name,
    classifiers=classifiers,
    validation=validation,
    progress=progress,
  )
  # These compare with the image of a condition, or of a condition of training.
  without |= dict.fromkeys(NEED_CONDITIONS, "of runs alone, whose conditions are known")
  return dataclasses.replace(
    context, judges=judges, classifiers=classifiers, skipped={**skipped, **without}
  )


def _comparison(
  context: EvalContext,
  generated: assessment.GeneratedSet,
  judged: assessment.Assessment,
  pooled: Sequence[Measurement],
  options: Options,
  overlap: str,
) -> Comparison:
  images = generated.images.images
  count = min(len(images), len(context.conditions))
  rows = np.linspace(0, count - 1, comparison_facts.NUM_SHOWN)
  rows = np.unique(rows.astype(int)).tolist()
  result = PathResult(
    name=generated.images.name,
    runs=(),
    images=comparison_facts.stack(images, rows),
    measurements=pooled,
    features=generated.features,
    losses={},
    sweep=(),
    **comparison_facts.neighbours(context, images, judged),
    description="a folder of images",
  )
  return Comparison(
    title=f"{generated.images.name} against real images",
    facts={
      "synthetic": _counted(generated.images),
      "held out": f"{_counted(context.conditions)}: the floor",
      "reference": f"{_counted(context.reference)}",
      "patients of both folders": overlap,
      **comparison_facts.judges(context),
      **comparison_facts.command("evaluate"),
    },
    warnings=comparison_facts.few_positives(context),
    differences={},
    paths=[result],
    real=[
      *assessment.floors(context, options.records),
      *assessment.keep(context.ceilings, options.records),
      *(one for one in judged.measurements if one.of == "real"),
    ],
    verdicts=[],
    shown=comparison_facts.stack(context.conditions.images, rows),
    captions=["any real image"] * len(rows),
    real_features={
      name: of_sets["reference"] for name, of_sets in context.features.items()
    },
    limitations=comparison_facts.limitations(context),
  )


def _counted(images: ImageSet) -> str:
  patients = (
    f"{images.num_patients:,} patients"
    if images.num_patients
    else ("unknown patients, each image counts as one")
  )
  return f"{len(images):,} images of {patients}, {images.name}"


def _of_others(
  synthetic: ImageSet, real: ImageSet, held_out: np.ndarray
) -> tuple[ImageSet, str]:
  """Synthetic images of patients who are held out or not real; and what was left out.

  Raises `errors.InputError` if few remain.
  """
  named = all("patient" in x.labels and "" not in x.patients for x in (real, synthetic))
  used = np.setdiff1d(real.patients, [*held_out, ""])
  rows = np.flatnonzero(~np.isin(synthetic.patients, used))
  num = len(synthetic) - len(rows)
  where = "of patients in the reference or the judge's training"
  if num and len(rows) < MIN_REMAINING:
    raise errors.InputError(
      f"{num} of {len(synthetic)} synthetic images are {where}",
      f"{MIN_REMAINING} of other patients",
      "add real or synthetic images of other patients",
    )
  overlap = f"{num:,} of {len(synthetic):,} synthetic images {where} are left out"
  if num:
    logging.warning("%s", overlap)
  if not named:
    overlap += "; unknown for images without a patient"
  return synthetic.take(rows), overlap


def _divide(
  real: ImageSet, synthetic: ImageSet, folders: Folders
) -> tuple[dict[str, ImageSet], ImageSet]:
  """Images for a judge's training and thresholds, if it is trained, and the others."""
  parts, rest = {}, real
  few = "findings" not in real.labels or len(real) * TRAINING_SHARE < MIN_TRAINING
  if folders.probe or few:
    return parts, rest
  early = np.setdiff1d(real.patients, synthetic.patients)
  for name, share in (("train", TRAINING_SHARE), ("validation", VALIDATION_SHARE)):
    num = round(share * len(real))
    chosen, others = selection.choose(rest.ids, rest.patients, num=num, first=early)
    parts[name], rest = rest.take(chosen), rest.take(others)
  return parts, rest


def _judge(
  parts: Mapping[str, ImageSet],
  folders: Folders,
  out: pathlib.Path,
  options: Options,
  progress: types.Progress,
) -> probe.Probe | None:
  """A classifier of findings, if any."""
  if folders.probe:
    return probe.load_probe(folders.probe)
  if not parts:
    return None
  training, validation = (
    (part.images, np.asarray(part.labels["findings"])) for part in parts.values()
  )
  return probe.train_probe(
    *training,
    out / "probe",
    validation=validation,
    changes=options.classifier_changes(options.probe_steps),
    progress=progress,
  )
