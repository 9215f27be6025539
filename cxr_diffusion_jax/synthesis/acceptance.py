"""Judges that reject images which do not show what was asked for.

validation images: scores, labels -> low (Youden), high (98 % of images without it)
images, asked labels -> what is missed (asked, score <= low) or seen (absent, > high)

RoentGen-v2 filters its synthetic datasets in this way, by sex, age and view. Findings
are rarer and harder to see, so a judge rejects for a finding that was not asked for
only where it sees it more clearly than in 98 % of the real images without it.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors import classifiers as classifiers_lib
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors.classifiers import Classifier
from cxr_diffusion_jax.encoders.probes import probe
from cxr_diffusion_jax.evaluation import eval_context
from cxr_diffusion_jax.run.run import Run
from cxr_diffusion_jax.synthesis.rows import Subject

PROBE = "probe"

# Labels that a classifier may score beside findings, each with its field and code.
PERSON = {
  "Female": ("sex", 0),
  "Male": ("sex", 1),
  "PA": ("view", 0),
  "AP": ("view", 1),
}

# Share of real images without a finding that may not be rejected for it.
SPECIFICITY = 0.98

# Validation images for the thresholds, at most.
MAX_IMAGES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AcceptanceJudge:
  """A classifier with two thresholds for each of its m labels.

  Attributes:
    names: of the labels, some of the vocabulary's and of `PERSON`'s.
    score_fn: uint8 [n s s 1] -> [n m], higher where seen.
    real_rate: share of the real validation images that it accepts.
    low: [m] a label that was asked for must score above it; NaN for no demand.
    high: [m] a label that is absent must not score above it; NaN for no demand.
  """

  title: str
  fingerprint: str
  names: tuple[str, ...]
  score_fn: Callable[[types.Arrays], np.ndarray]
  low: np.ndarray
  high: np.ndarray
  real_rate: float = np.nan

  def objections(
    self, images: np.ndarray, subjects: Sequence[Subject]
  ) -> list[list[str]]:
    """What speaks against each image, such as 'Effusion missed'; empty for nothing."""
    scores = np.asarray(self.score_fn(images))
    asked = np.array([labels_of(subject, self.names) for subject in subjects])
    missed, seen = _against(scores, asked, self.low, self.high)
    kinds = [(name, kind) for kind in ("missed", "seen") for name in self.names]
    return [
      [f"{name} {kind}" for (name, kind), bad in zip(kinds, row, strict=True) if bad]
      for row in np.concatenate([missed, seen], axis=1)
    ]


def objections(
  judges: Sequence[AcceptanceJudge], images: np.ndarray, subjects: Sequence[Subject]
) -> list[list[str]]:
  """What speaks against each image in the eyes of any judge."""
  of_judges = [judge.objections(images, subjects) for judge in judges]
  return [
    [text for one in of_judges for text in one[row]] for row in range(len(subjects))
  ]


def labels_of(subject: Subject, names: Sequence[str]) -> list[float]:
  """1 for labels that a subject has, 0 for those that it lacks, NaN if unknown."""
  person = {"sex": subject.sex, "view": subject.view}
  codes = {"F": 0, "M": 1, "PA": 0, "AP": 1}
  values = []
  for name in names:
    if name in PERSON:
      field, code = PERSON[name]
      value = float(codes[person[field]] == code) if person[field] else np.nan
    else:
      value = np.nan if name in subject.unknown else float(name in subject.findings)
    values.append(value)
  return values


def open_judges(
  run: Run,
  names: Sequence[str],
  *,
  progress: types.Progress = types.no_progress,
) -> list[AcceptanceJudge]:
  """Opens judges, and finds their thresholds on validation images of the run's dataset.

  Args:
    names: of 'probe' (trained on the run's training images, or read back),
      'densenet=FILE' (torchxrayvision's weights), NAME.onnx and NAME.safetensors (a
      user's classifiers of findings; outputs named as `PERSON` judge sex and view).

  Raises:
    errors.InputError: an unknown name, a file that does not fit, a judge of labels that
      the dataset does not have, or a dataset that is gone.
  """
  if not names:
    return []
  _check(names)
  weights = dict(name.split("=", 1) for name in names if "=" in name)
  files = [name for name in names if name != PROBE and "=" not in name]
  # Refuses files that do not fit before any long work.
  opened = classifiers_lib.open_classifiers(weights, files=files)
  records = run.dataset.records
  validation = _some(image_set.of_records(records, "validation"))
  labels = _with_person(validation)
  judges = [_of_classifier(one, validation, labels, progress) for one in opened]
  if PROBE in names:
    trained = eval_context.train_judge(records, None, progress)
    title = eval_context.judge_name(run.dataset.origin)
    known = {name: labels[name] for name in validation.vocabulary}
    judges.insert(
      0, _judge(title, trained.fingerprint, trained.scores, validation, known)
    )
  return judges


def thresholds(
  name: str, scores: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
  """Returns (low, high) of one label; NaN where real images have it always or never.

  Args:
    scores: [n], of validation images.
    labels: [n], 1 present, 0 absent, nan unknown.
  """
  known = np.isfinite(labels)
  scores, positive = scores[known], labels[known] > 0.5
  low = float(probe.youden_thresholds(scores[:, None], positive[:, None])[0])
  if not np.isfinite(low) or name in PERSON:
    return low, low
  return low, max(low, float(np.quantile(scores[~positive], SPECIFICITY)))


def _of_classifier(
  classifier: Classifier,
  validation: ImageSet,
  labels: Mapping[str, np.ndarray],
  progress: types.Progress,
) -> AcceptanceJudge:
  places = classifier.places(tuple(labels))
  names = [list(labels)[column] for column in places]
  if not names:
    raise errors.InputError(
      f"{classifier.title} judges {', '.join(filter(None, classifier.findings))}",
      f"some of {', '.join(labels)}",
    )

  def score_fn(images: types.Arrays) -> np.ndarray:
    features = extractor_lib.extract(classifier.extractor, images, progress=progress)
    return classifier.head_fn(features)[:, list(places.values())]

  known = {name: labels[name] for name in names}
  fingerprint = classifier.extractor.fingerprint
  return _judge(classifier.title, fingerprint, score_fn, validation, known)


def _judge(
  title: str,
  fingerprint: str,
  score_fn: Callable[[types.Arrays], np.ndarray],
  validation: ImageSet,
  labels: Mapping[str, np.ndarray],
) -> AcceptanceJudge:
  scores = np.asarray(score_fn(validation.images), np.float64)
  pairs = [
    thresholds(name, scores[:, column], values)
    for column, (name, values) in enumerate(labels.items())
  ]
  low, high = np.array(pairs, np.float64).reshape(-1, 2).T
  known = np.stack(list(labels.values()), axis=1)
  against = np.concatenate(_against(scores, known, low, high), axis=1).any(axis=1)
  return AcceptanceJudge(
    title=title,
    fingerprint=fingerprint,
    names=tuple(labels),
    score_fn=score_fn,
    low=low,
    high=high,
    real_rate=float(1 - against.mean()),
  )


def _against(
  scores: np.ndarray, asked: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Labels [n m] that are missed, and that are seen although absent."""
  return (asked == 1) & (scores <= low), (asked == 0) & (scores > high)


def _with_person(images: ImageSet) -> dict[str, np.ndarray]:
  """Label -> [n] 1, 0 or NaN, of findings and of `PERSON`."""
  findings = np.asarray(images.labels["findings"], np.float64)
  labels = dict(zip(images.vocabulary, findings.T, strict=True))
  for name, (field, code) in PERSON.items():
    codes = np.asarray(images.labels[field])
    labels[name] = np.where(codes < 0, np.nan, codes == code)
  return labels


def _some(images: ImageSet) -> ImageSet:
  """At most `MAX_IMAGES` of a set, evenly spaced."""
  if len(images) <= MAX_IMAGES:
    return images
  return images.take(np.linspace(0, len(images) - 1, MAX_IMAGES).astype(int))


def _check(names: Sequence[str]) -> None:
  for name in names:
    known = name == PROBE or name.startswith("densenet=")
    if not known and not name.endswith((".onnx", classifiers_lib.WEIGHTS)):
      raise errors.InputError(
        f"a judge {name!r}",
        f"{PROBE}, densenet=FILE, NAME.onnx or NAME{classifiers_lib.WEIGHTS}",
      )
