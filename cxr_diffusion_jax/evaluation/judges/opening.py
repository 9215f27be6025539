"""All judges of whether images show what was asked for, opened once for a comparison.

real images, records, encoders --open_judges--> [judge, ...]
judge(images, of) -> [Measurement, ...]: of generated images, or of real ones, whose
figures are the ceiling. Judges that hold an image against the very image that its
condition came from tell both at once, when they are given the generated ones.
"""

from collections.abc import Callable, Sequence
import os
import pathlib

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.evaluation.image_set import ImageSet
from cxr_diffusion_jax.evaluation.judges import (
  adherence,
  adherence_table,
  anatomy,
  anatomy_regressor,
  localisation,
  probe,
  zero_shot,
)
from cxr_diffusion_jax.evaluation.measurement import Measurement

# (images with the labels that were asked for, "generated" or "real") -> figures
JudgeFn = Callable[[ImageSet, str], list[Measurement]]


def of_probe(judge: probe.Probe, name: str, *, seed: int = 0) -> JudgeFn:
  """The classifier's opinion of the findings.

  Args:
    judge: trained on other images than those that are judged.
    name: what tables call it.
    seed: of the bootstrap.
  """

  def measure(images: ImageSet, of: str) -> list[Measurement]:
    def judged():
      figures = adherence.measure(
        judge.scores(images.images), _asked(images), judge.thresholds, seed=seed
      )
      return adherence_table.to_measurements(
        figures, images.vocabulary, judge=name, standin=True, of=of
      )

    return attempt("adherence", "auroc", len(images), judged, judge=name, of=of)

  return measure


def of_zero_shot(
  scorer: zero_shot.Scorer,
  *,
  cache: pathlib.Path | None = None,
  seed: int = 0,
  progress: types.Progress = types.no_progress,
) -> JudgeFn:
  """ELIXR's opinion, by two sentences a finding.

  Args:
    scorer: of `zero_shot.open_scorer`.
    cache: folder that keeps margins; None for none.
    seed: of the bootstrap.
    progress: told during long work.
  """

  def measure(images: ImageSet, of: str) -> list[Measurement]:
    return attempt(
      *("adherence", "auroc", len(images)),
      lambda: zero_shot.measure(
        scorer, images, of=of, seed=seed, cache=cache, progress=progress
      ),
      judge=zero_shot.JUDGE,
      of=of,
    )

  return measure


def of_anatomy(
  root: str | os.PathLike,
  training: ImageSet,
  conditions: ImageSet,
  folder: pathlib.Path,
  *,
  seed: int = 0,
  progress: types.Progress = types.no_progress,
) -> JudgeFn | str:
  """Measured anatomy against what was asked for; why not, where nothing is known of it.

  Args:
    root: the tree of the images.
    training: images that the measurer is trained on.
    conditions: real images that were asked for again.
    folder: keeps the measurer.
    seed: of the bootstrap.
    progress: told during long work.
  """
  known, facts = (
    anatomy.facts_of(root, [str(name) for name in images.ids])
    for images in (training, conditions)
  )
  if known is None or facts is None:
    return anatomy.NO_FACTS
  ruler = anatomy_regressor.train_measurer(
    training.images, known, folder, progress=progress
  )
  return _aligned(
    lambda images: anatomy.measure(images, conditions, facts, ruler, seed=seed)
  )


def of_boxes(
  records: records_lib.Records,
  conditions: ImageSet,
  judge: probe.Probe,
  name: str,
  *,
  seed: int = 0,
) -> JudgeFn | str:
  """Where findings are seen against where they were; why not, where no box is known.

  Args:
    records: of the images.
    conditions: real images that were asked for again.
    judge: whose maps are used.
    name: what tables call it.
    seed: of the bootstrap.
  """
  boxes = localisation.boxes_of(records, [str(one) for one in conditions.ids])
  if not np.isfinite(boxes).any():
    return "no boxes of these images"
  return _aligned(
    lambda images: localisation.measure(
      images, conditions, boxes, judge, judge_name=name, seed=seed
    )
  )


def open_judges(
  judge: probe.Probe | None,
  name: str,
  settings: DataSettings | None,
  *,
  elixr_models: str = "",
  cache: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> tuple[list[JudgeFn], dict[str, str]]:
  """Opens every judge that needs no condition's image.

  Args:
    judge: classifier of findings; None for none.
    name: what tables call it.
    settings: of the data, whose stand-ins may judge; None for none.
    elixr_models: folder or hub id of ELIXR's SavedModels; "" for the stand-in.
    cache: folder that keeps what the encoders said.
    progress: told during long work.

  Returns:
    The judges, and why others are not there.

  Raises:
    errors.InputError: models that are named and not there.
  """
  judges: list[JudgeFn] = []
  skipped = {}
  if judge is None:
    skipped["probe"] = "no classifier of findings"
  else:
    judges.append(of_probe(judge, name))
  scorer: zero_shot.Scorer | str = "no data that an encoder belongs to"
  if settings is not None:
    scorer = zero_shot.open_scorer(settings, elixr_models=elixr_models)
  if isinstance(scorer, str):
    skipped["ELIXR zero-shot"] = scorer
  else:
    judges.append(of_zero_shot(scorer, cache=cache, progress=progress))
  return judges, skipped


def measure_all(
  judges: Sequence[JudgeFn], images: ImageSet, of: str
) -> list[Measurement]:
  """What all judges say of images.

  Args:
    judges: of `open_judges`.
    images: with what was asked for; or real images, with their labels.
    of: "generated" or "real".
  """
  if "findings" not in images.labels:
    reason = "no findings are known of these images"
    nothing = Measurement(
      subject="adherence",
      metric="auroc",
      value=None,
      reason=reason,
      num=len(images),
      of=of,
    )
    return [nothing]
  return [one for judge in judges for one in judge(images, of)]


def attempt(
  subject: str,
  metric: str,
  num: int,
  measure: Callable[[], list[Measurement]],
  *,
  judge: str = "",
  of: str = "generated",
) -> list[Measurement]:
  """What `measure` returns; undefined where it refuses its input, with its words."""
  try:
    return measure()
  except errors.InputError as error:
    nothing = Measurement(
      subject=subject,
      metric=metric,
      value=None,
      reason=str(error),
      num=num,
      judge=judge,
      of=of,
    )
    return [nothing]


def _aligned(measure: Callable[[ImageSet], list[Measurement]]) -> JudgeFn:
  """A judge that measures generated and real images at once, with the generated."""
  return lambda images, of: measure(images) if of == "generated" else []


def _asked(images: ImageSet) -> np.ndarray:
  return np.asarray(images.labels["findings"])
