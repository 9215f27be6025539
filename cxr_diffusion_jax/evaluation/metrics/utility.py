"""The value of synthetic images as training data for a classifier of findings.

real                 real images                         the reference
tstr                 synthetic images: train on synthetic, test on real
real_and_synthetic   both, shuffled together; also 2 to 5 times as many synthetic ones
synthetic_then_real  synthetic images first, then fine-tuned on real ones
  -> each with several seeds -> scores of the same real test images
  -> AUROC, average precision, difference to real; curve over fractions of real images

Real validation patients, the same for all arms, end each training and choose its step;
there is no threshold. "tstr": Esteban et al. 2017 (1706.02633), section 4.2.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.probes import mixture_fit
from cxr_diffusion_jax.encoders.probes.mixture_fit import Source
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import utility_arms, utility_figures
from cxr_diffusion_jax.evaluation.metrics.utility_arms import REAL, UtilitySettings


class CurvePoint(NamedTuple):
  """Macro AUROC with a fraction of the real training images."""

  fraction: float
  arm: str
  auroc: Measurement


@dataclasses.dataclass(frozen=True, kw_only=True)
class UtilityReport:
  """The result of `measure`.

  Attributes:
    measurements: of each arm but "real": `ARM_macro_auroc`, `ARM_auroc` by finding, the
      same of the average precision; each also of real images alone (of="real"), and as
      `..._difference`, arm minus real, paired by seed and test image. `num` is the
      number of training images, `num_real` of test images.
  """

  measurements: Sequence[Measurement]
  curve: Sequence[CurvePoint]


def measure(
  real_train: ImageSet,
  synthetic: ImageSet,
  real_test: ImageSet,
  folder: pathlib.Path,
  *,
  validation: ImageSet,
  settings: UtilitySettings | None = None,
  shared_folder: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> UtilityReport:
  """Trains classifiers on real and on synthetic images and compares their figures.

  Scores of the test images are saved, so that an interrupted call resumes with the next
  classifier.

  Args:
    real_train: with findings, and patients where known.
    synthetic: with the requested findings; not of conditions of the test patients.
    real_test: as `real_train`, of other patients.
    validation: real images of patients in no other set, which end each training.
    shared_folder: receives those of real images alone, which do not depend on the
      synthetic ones; None for `folder`.

  Returns:
    The figures. Macro means are over findings with enough test images.

  Raises:
    errors.InputError: too few images or findings, images of several sizes, patients
      (where unknown: images) both in the test set and in another.
  """
  settings = settings or UtilitySettings()
  sets = (real_train, synthetic, real_test)
  _check(sets)
  _check_apart(validation, real_test)
  _check_apart(real_train, validation)
  sources = [mixture_fit.read(images, progress) for images in sets]
  ending = mixture_fit.read(validation, progress)
  _check_sizes([*sets, validation])
  test = utility_figures.TestSet(
    findings=sources[2].findings,
    patients=sources[2].patients,
    vocabulary=real_test.vocabulary,
    counted=_counted(sets, sources),
    judge=settings.judge,
  )
  folders = dict.fromkeys(utility_arms.ARMS, folder) | {REAL: shared_folder or folder}
  trainer = mixture_fit.Trainer(sources[2], ending)
  scores = _train(trainer, sources[:2], settings, folders, progress)
  numbers = len(real_train), len(synthetic)
  real, *others = (
    utility_figures.samples(test, scores[1.0, arm]) for arm in settings.arms
  )
  measurements = []
  for arm, samples in zip(settings.arms[1:], others, strict=True):
    num = utility_arms.num_trained(arm, 1.0, numbers, settings)
    measurements += utility_figures.of_arm(test, arm, samples, real, num, numbers[0])
  return UtilityReport(
    measurements=measurements, curve=_curve(test, scores, numbers, settings)
  )


def _train(
  trainer: mixture_fit.Trainer,
  sources: Sequence[Source],
  settings: UtilitySettings,
  folders: Mapping[str, pathlib.Path],
  progress: types.Progress,
) -> dict[tuple[float, str], np.ndarray]:
  """(fraction, arm) -> scores [s t k]; sources are real and synthetic images."""
  real, synthetic = sources
  fits = utility_arms.fits(len(real.images), settings)
  scores: dict[tuple[float, str], list[np.ndarray]] = {}
  for i, fit in enumerate(fits, start=1):
    fraction, arm, seed = fit
    phases = utility_arms.phases(fit, real, synthetic, settings)
    name = f"{arm}-{fraction:g}-{seed}"
    title = f"utility {i} of {len(fits)}: {arm}, {fraction:.0%} of real, seed {seed}"

    def report(label: str, done: int, total: int, title: str = title) -> None:
      progress(f"{title}, {label}", done, total)

    of_fit = trainer.scores(folders[arm], name, phases, report)
    scores.setdefault((fraction, arm), []).append(of_fit)
  return {key: np.stack(of_seeds) for key, of_seeds in scores.items()}


def _curve(
  test: utility_figures.TestSet,
  scores: dict[tuple[float, str], np.ndarray],
  numbers: tuple[int, int],
  settings: UtilitySettings,
) -> list[CurvePoint]:
  points = []
  for fraction in settings.fractions:
    for arm in (one for one in utility_arms.CURVE_ARMS if one in settings.arms):
      title = f"{arm}_macro_auroc"
      num = utility_arms.num_trained(arm, fraction, numbers, settings)
      if (fraction, arm) in scores:
        drawn = utility_figures.sample(test, "auroc", scores[fraction, arm])
        last = len(test.counted)
        auroc = utility_figures.measurement(test, title, drawn, last, num=num)
      else:
        auroc = utility_figures.RECORDS[title].measurement(
          value=None,
          reason=f"{round(fraction * numbers[0])} real training images, fewer than"
          f" {utility_arms.MIN_IMAGES}",
          num=num,
          judge=test.judge,
        )
      of = "real" if arm == REAL else "generated"
      points.append(CurvePoint(fraction, arm, dataclasses.replace(auroc, of=of)))
  return points


def _counted(sets: Sequence[ImageSet], sources: Sequence[Source]) -> np.ndarray:
  """[k] bool, findings with enough test images."""
  counted = np.ones(sources[0].findings.shape[1], bool)
  for images, source in zip(sets[::-1], sources[::-1], strict=True):
    number = (source.findings > 0.5).sum(axis=0)
    # Only the test set decides, so that macro means do not depend on training images.
    enough = counted & (number >= utility_arms.MIN_POSITIVES)
    if images is sets[-1]:
      enough &= (source.findings <= 0.5).any(axis=0)
    if not enough.any():
      raise errors.InputError(
        f"{images.name}: at most {number[counted].max()} of {len(images)} images with"
        " the same finding",
        f"a finding that {utility_arms.MIN_POSITIVES} images of each set have, and one"
        " test image has not",
        "add images",
      )
    if images is sets[-1]:
      counted = enough
  return counted


def _check(sets: Sequence[ImageSet]) -> None:
  """Refuses sets that are too small, or share patients with the test set."""
  for images in sets:
    wanted = 1 if images is sets[-1] else utility_arms.MIN_IMAGES
    if len(images) < wanted:
      raise errors.InputError(
        f"{len(images)} images in {images.name or 'a set without a name'}",
        f"{wanted} or more",
        "add images",
      )
  for images in sets[:-1]:
    _check_apart(images, sets[-1])


def _check_sizes(sets: Sequence[ImageSet]) -> None:
  """Refuses sets with images of different sizes."""
  sizes = {images.name: np.shape(images.images[0])[:2] for images in sets}
  if len({*sizes.values()}) > 1:
    shown = ", ".join(f"{h}x{w} in {name}" for name, (h, w) in sizes.items())
    raise errors.InputError(
      f"images of {shown}", "one size", "bring all images to one size first"
    )


def _check_apart(training: ImageSet, test: ImageSet) -> None:
  """Refuses training images of patients in the test set."""
  known = all("patient" in images.labels for images in (training, test))
  a, b = (x.labels["patient"] if known else x.ids for x in (training, test))
  common = np.intersect1d(np.asarray(a), np.asarray(b))
  if len(common):
    what = "patients" if known else "images"
    raise errors.InputError(
      f"{len(common)} {what} of {test.name} are in {training.name} too, such as"
      f" {common[0]}",
      f"{what} of {test.name} in no other set, nor as conditions of synthetic images",
      "take conditions from the training split, or leave them out",
    )
