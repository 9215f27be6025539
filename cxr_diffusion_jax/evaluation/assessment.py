"""Judges one set of generated images: figures of every subject, cached on disk.

generated images --extractors, judges--> features, scores
  --fidelity, adherence, diversity, privacy--> [Measurement, ...] -> assessment-*.json

A figure of too few images is undefined, with the minimum as its reason.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from cxr_diffusion_jax import checked_files, types
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders import encoding
from cxr_diffusion_jax.evaluation import leaks, measurement
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import (
  blockiness,
  condition_diversity,
  fidelity,
  memorisation,
)

# Increased when the same images give different figures: saved ones are remeasured.
FORMAT = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assessment:
  """The figures of one set.

  Attributes:
    nearest: rows of a generated and its nearest training image, and a caption; as
      `copies`, and `elicited` of images generated for conditions of training images.
  """

  measurements: Sequence[Measurement]
  nearest: Sequence[tuple[int, int, str]] = ()
  copies: Sequence[tuple[int, int, str]] = ()
  elicited: Sequence[tuple[int, int, str]] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedSet:
  """Generated images, ready to be judged."""

  images: ImageSet  # image i was generated for condition i of the context
  features: Mapping[str, np.ndarray]  # extractor -> [n d]
  repeats: np.ndarray | None = None  # uint8 [c m h w 1], m images of c conditions
  repeat_features: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  # For conditions of training images, and of the context; None for unknown.
  elicited: tuple[memorisation.Conditioned, memorisation.Conditioned] | None = None


def assess(
  context: EvalContext,
  generated: GeneratedSet,
  metrics: Sequence[Metric],
  *,
  folder: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> Assessment:
  """Measures a set of images, or reads its saved figures."""
  path = None
  if folder is not None:
    path = folder / f"assessment-{_fingerprint(context, generated, metrics)}.json"
    if path.exists():
      return _read(path)
  parts = []
  for subject, measure in MEASURES.items():
    records = [record for record in metrics if record.subject == subject]
    if records:
      part = measure(context, generated, records, progress)
      parts.append(
        dataclasses.replace(part, measurements=keep(part.measurements, records))
      )
  whole = Assessment(
    measurements=[one for part in parts for one in part.measurements],
    nearest=[pair for part in parts for pair in part.nearest],
    copies=[pair for part in parts for pair in part.copies],
    elicited=[pair for part in parts for pair in part.elicited],
  )
  if path is not None:
    values = {"schema": measurement.SCHEMA, **dataclasses.asdict(whole)}
    checked_files.write_json(path, values)
  return whole


def keep(
  measurements: Sequence[Measurement], metrics: Sequence[Metric]
) -> Sequence[Measurement]:
  """Measurements of these metrics; all if there are none, since these hold a reason."""
  names = {record.name for record in metrics}
  return [one for one in measurements if one.metric in names] or measurements


def floors(
  context: EvalContext,
  metrics: Sequence[Metric],
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Fidelity of the conditions' own real images: the floor of as many real images."""
  of_conditions = image_set.groups(context.conditions)
  features = {name: sets["conditions"] for name, sets in context.features.items()}
  label = "fidelity of real images"
  patients = _known_patients(context.conditions)
  rows = _of_features(
    context, features, of_conditions, patients, metrics, progress, label
  )
  rows += blockiness.measure(context.conditions, patients, metrics)
  return [dataclasses.replace(one, of="real") for one in rows]


def _fidelity(
  context: EvalContext,
  generated: GeneratedSet,
  metrics: Sequence[Metric],
  progress: types.Progress,
) -> Assessment:
  rows = np.arange(len(generated.images))
  if len(rows) > len(context.conditions):
    # As many images as the floor has, so that both are comparable.
    chosen = np.random.default_rng(0).permutation(rows)
    rows = np.sort(chosen[: len(context.conditions)])
  groups = {
    name: mask[rows] for name, mask in image_set.groups(generated.images).items()
  }
  features = {name: values[rows] for name, values in generated.features.items()}
  label = f"fidelity of {generated.images.name}"
  patients = _known_patients(generated.images)
  figures = _of_features(
    context,
    features,
    groups,
    None if patients is None else patients[rows],
    metrics,
    progress,
    label,
  )
  figures += blockiness.measure(generated.images, patients, metrics)
  return Assessment(measurements=figures)


def _known_patients(images: ImageSet) -> np.ndarray | None:
  return images.patients if "patient" in images.labels else None


def _of_features(
  context: EvalContext,
  features: Mapping[str, np.ndarray],
  groups: Mapping[str, np.ndarray],
  patients: np.ndarray | None,
  metrics: Sequence[Metric],
  progress: types.Progress,
  label: str,
) -> list[Measurement]:
  of_reference = image_set.groups(context.reference)
  shared = {
    group: (of_reference[group], rows)
    for group, rows in groups.items()
    if group in of_reference and rows.any()
  }
  measurements = []
  for number, extractor in enumerate(context.extractors):
    measurements += fidelity.measure(
      context.features[extractor.name]["reference"],
      features[extractor.name],
      extractor=extractor,
      groups=shared,
      metrics=metrics,
      real_patients=_known_patients(context.reference),
      patients=patients,
    )
    progress(label, number + 1, len(context.extractors))
  return measurements


def _adherence(context: EvalContext, generated: GeneratedSet, *_: object) -> Assessment:
  figures = judges_lib.measure_all(
    context.judges, generated.images, "generated", generated.features
  )
  return Assessment(measurements=figures)


def _diversity(context: EvalContext, generated: GeneratedSet, *_: object) -> Assessment:
  extractor = context.preferred
  images, features = generated.repeats, generated.repeat_features.get(extractor.name)
  if images is None or features is None:
    # One image of each condition: no pairs within a condition.
    every = range(len(generated.images))
    images = np.stack([generated.images.images[row] for row in every])[:, None]
    features = generated.features[extractor.name][:, None]
  patients = _known_patients(generated.images)

  def measure() -> list[Measurement]:
    return condition_diversity.measure(
      images,
      features,
      real=context.reference,
      real_features=context.features[extractor.name]["reference"],
      extractor=extractor,
      patients=None if patients is None else patients[: len(images)],
    )

  figures = judges_lib.attempt("ms_ssim", measure, num=len(generated.images))
  return Assessment(measurements=figures)


def _privacy(
  context: EvalContext,
  generated: GeneratedSet,
  metrics: Sequence[Metric],
  progress: types.Progress,
) -> Assessment:
  del metrics
  return Assessment(**leaks.measure(context, generated, progress))


# Subject -> what measures it of one set of images.
MEASURES: Mapping[str, Callable[..., Assessment]] = {
  "fidelity": _fidelity,
  "adherence": _adherence,
  "diversity": _diversity,
  "privacy": _privacy,
}


def _fingerprint(
  context: EvalContext, generated: GeneratedSet, metrics: Sequence[Metric]
) -> str:
  sets = [generated.images, context.conditions, context.reference]
  if generated.elicited is not None:
    sets += [one.generated for one in generated.elicited]
  settings, records = context.settings, context.records
  facts = [
    FORMAT,
    sorted(record.name for record in metrics),
    [extractor.fingerprint for extractor in context.extractors],
    context.judge.fingerprint if context.judge else "",
    [
      [one.extractor.fingerprint, one.title, one.findings]
      for one in context.classifiers
    ],
    [
      [one.fingerprint, one.name] if one else []
      for one in (context.segmenter, context.reidentification)
    ],
    context.scorer.fingerprint if context.scorer else "",
    # What `text_alignment` compares images with.
    encoding.prompts_fingerprint(settings, records) if settings and records else "",
    *([str(name) for name in images.ids] for images in sets),
    0 if generated.repeats is None else list(generated.repeats.shape),
  ]
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(path: pathlib.Path) -> Assessment:
  values = checked_files.read_json(path)
  return Assessment(
    measurements=[
      Measurement(**one | {"deviations": tuple(one["deviations"])})
      for one in values["measurements"]
    ],
    nearest=[tuple(pair) for pair in values["nearest"]],
    copies=[tuple(pair) for pair in values["copies"]],
    elicited=[tuple(pair) for pair in values["elicited"]],
  )
