"""Opens all judges that assess whether images show what was requested.

real images, records, encoders --open_judges--> [judge, ...]
judge(images, of, features) -> [Measurement, ...]: of generated images, or of real ones,
which are the ceiling. Judges that compare each image with the real image of its
condition measure both when they are given the generated ones.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
import pathlib

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import encoding
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.elixr import zero_shot as elixr_zero_shot
from cxr_diffusion_jax.encoders.extractors import opening as features_lib
from cxr_diffusion_jax.encoders.extractors import segmenter
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.encoders.probes import anatomy_regressor, probe
from cxr_diffusion_jax.evaluation import metric
from cxr_diffusion_jax.evaluation.judges import (
  adherence,
  alignment,
  anatomy,
  classifier,
  localisation,
  zero_shot,
)
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement

# Extractor -> [n d] of the images that are judged.
Features = Mapping[str, np.ndarray]

# (images with the requested labels, "generated" or "real", features) -> figures
JudgeFn = Callable[[ImageSet, str, Features], list[Measurement]]


def of_anatomy(
  root: str | os.PathLike,
  training: ImageSet,
  conditions: ImageSet,
  folder: pathlib.Path,
  progress: types.Progress = types.no_progress,
) -> JudgeFn | str:
  """Measured against requested anatomy; or why not."""
  known, facts = (
    anatomy.facts_of(root, [str(name) for name in images.ids])
    for images in (training, conditions)
  )
  if known is None or facts is None:
    return anatomy.NO_FACTS
  regressor = anatomy_regressor.train(training.images, known, folder, progress=progress)
  return _aligned(lambda images: anatomy.measure(images, conditions, facts, regressor))


def of_segmenter(
  network: Extractor | None,
  conditions: ImageSet,
  progress: types.Progress = types.no_progress,
) -> JudgeFn | str:
  """Anatomy that a user's segmenter sees in both images; or why not."""
  if network is None:
    return anatomy.NO_SEGMENTER
  requested = segmenter.measure(network, conditions.images, progress)
  return _aligned(
    lambda images: anatomy.measure_segmented(images, conditions, requested, network)
  )


def of_boxes(
  records: records_lib.Records, conditions: ImageSet, judge: probe.Probe, name: str
) -> JudgeFn | str:
  """Where findings are seen against where they should be; or why not."""
  boxes = localisation.boxes_of(records, [str(one) for one in conditions.ids])
  if not np.isfinite(boxes).any():
    return "no boxes of these images"
  return _aligned(
    lambda images: localisation.measure(
      images, conditions, boxes, judge, judge_name=name
    )
  )


def aligned_judges(
  root: str | os.PathLike,
  records: records_lib.Records,
  training: ImageSet,
  judge: probe.Probe,
  name: str,
  organs: Extractor | None,
  progress: types.Progress,
) -> Callable[[ImageSet], tuple[list[JudgeFn], dict[str, str]]]:
  """Opens judges that compare images with those of given conditions, each once.

  The function returns the judges, and why others are unavailable. `judge` is the
  classifier `name`, `organs` a segmenter.
  """
  folder = records.folder / "anatomy_regressor"

  @functools.cache
  def aligned(conditions: ImageSet) -> tuple[list[JudgeFn], dict[str, str]]:
    opened = {
      "anatomy": of_anatomy(root, training, conditions, folder, progress),
      "anatomy by a segmenter": of_segmenter(organs, conditions, progress),
      "boxes": of_boxes(records, conditions, judge, name),
    }
    reasons = {name: one for name, one in opened.items() if isinstance(one, str)}
    return [one for one in opened.values() if not isinstance(one, str)], reasons

  return aligned


def of_prompts(
  extractors: Sequence[Extractor],
  weights: Mapping[str, str],
  settings: DataSettings,
  records: records_lib.Records,
) -> JudgeFn | str:
  """Images against the prompts of their conditions, by a CLIP; or why not.

  The CLIP is that among the extractors, opened with these weights. It is loaded again
  when texts are encoded, and then released.
  """
  clip = next((one for one in extractors if one.name == "clip"), None)
  if clip is None:
    return "no clip features"
  place = features_lib.clip_place(weights.get("clip", ""), settings)

  @functools.cache
  def texts_of(split: str) -> dict[str, str]:
    texts = encoding.record_prompts(settings, records, split)
    return dict(zip(map(str, records.ids(split)), texts, strict=True))

  @functools.lru_cache(maxsize=4)
  def encode(texts: tuple[str, ...]) -> np.ndarray:
    return clip_model.encode_text(clip_model.load(place), texts)[2]

  def prompts_of(ids: Sequence[str]) -> list[str]:
    for split in records.num_rows:
      if ids[0] in texts_of(split):
        return [texts_of(split)[one] for one in ids]
    raise errors.InputError(f"image {ids[0]}", "an image of the records")

  by_clip = alignment.AlignmentJudge(
    extractor=clip,
    encode_fn=lambda texts: encode(tuple(texts)),
    prompts_fn=prompts_of,
  )
  return _attempting(by_clip.measure, by_clip.title, "text_alignment")


def open_judges(
  judge: probe.Probe | None,
  name: str,
  scorer: elixr_zero_shot.Scorer | str = "no dataset with an encoder",
  *,
  classifiers: Sequence[classifier.Classifier] = (),
  validation: ImageSet | None = None,
  cache: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> tuple[list[JudgeFn], dict[str, str]]:
  """Opens the judges that need no real image of a condition.

  Args:
    judge: the classifier `name`, trained on other images than those that are judged.
    scorer: of ELIXR; or why there is none.
    classifiers: those that others have trained, which judge beside it.
    validation: real images for the thresholds of these; None for no thresholds.
    cache: keeps ELIXR's margins, and features of the validation images.

  Returns:
    The judges, and why others are unavailable.
  """
  judges: list[JudgeFn] = []
  skipped = {}

  def by_probe(one: probe.Probe, images: ImageSet, of: str, _: Features):
    findings = np.asarray(images.labels["findings"])
    scores, patients = one.scores(images.images), images.patients
    figures = adherence.measure(scores, findings, one.thresholds, patients=patients)
    fields = Fields(judge=name, standin=True, of=of, patients=images.num_patients)
    return adherence.to_measurements(figures, images.vocabulary, **fields)

  def by_elixr(scorer: elixr_zero_shot.Scorer, images: ImageSet, of: str, _: Features):
    return zero_shot.measure(scorer, images, of=of, cache=cache, progress=progress)

  if judge is None:
    skipped["probe"] = "no classifier of findings"
  else:
    judges.append(_attempting(functools.partial(by_probe, judge), name))
  for one in classifiers:
    by_classifier = classifier.ClassifierJudge(
      classifier=one, validation=validation, cache=cache, progress=progress
    )
    judges.append(_attempting(by_classifier.measure, one.title))
  if isinstance(scorer, str):
    skipped["ELIXR zero-shot"] = scorer
  else:
    judges.append(_attempting(functools.partial(by_elixr, scorer), zero_shot.JUDGE))
  return judges, skipped


def measure_all(
  judges: Sequence[JudgeFn], images: ImageSet, of: str, features: Features
) -> list[Measurement]:
  """The figures of all judges; undefined where findings are unknown."""
  if "findings" not in images.labels:
    reason = "no findings are known of these images"
    return [undefined("auroc", reason, num=len(images), of=of)]
  return [one for judge in judges for one in judge(images, of, features)]


def undefined(
  name: str, reason: str, *, num: int, judge: str = "", of: str = "generated"
) -> Measurement:
  """A figure without a value."""
  fields = Fields(value=None, reason=reason, num=num, judge=judge, of=of)
  return metric.find_all()[name].measurement(fields)


def attempt(
  name: str,
  measure: Callable[[], list[Measurement]],
  *,
  num: int,
  judge: str = "",
  of: str = "generated",
) -> list[Measurement]:
  """The result of `measure`; the undefined figure `name` where it refuses its input."""
  try:
    return measure()
  except errors.InputError as error:
    return [undefined(name, str(error), num=num, judge=judge, of=of)]


def _attempting(judge_fn: JudgeFn, name: str, figure: str = "auroc") -> JudgeFn:
  """A judge with an undefined figure where it refuses its input."""
  return lambda images, of, features: attempt(
    figure, lambda: judge_fn(images, of, features), num=len(images), judge=name, of=of
  )


def _aligned(measure: Callable[[ImageSet], list[Measurement]]) -> JudgeFn:
  """A judge that measures generated and real images at once, with the generated."""
  return lambda images, of, _: measure(images) if of == "generated" else []
