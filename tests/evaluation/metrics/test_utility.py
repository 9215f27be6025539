"""What synthetic images are worth: planted answers, paired intervals, nothing twice."""

import dataclasses
import math
import pathlib

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.encoders import fitting
from cxr_diffusion_jax.encoders.probes import probe_fit, probe_settings
from cxr_diffusion_jax.evaluation.metrics import utility
from cxr_diffusion_jax.evaluation.metrics.utility_arms import UtilitySettings

# What a training gives in tests that do not train.
PARAMS = {"head": {"bias": np.float32(1)}}

SETTINGS = UtilitySettings(
  network=probe_settings.ProbeSettings(
    widths=(8,),
    stem_stride=2,
    norm_groups=2,
    num_steps=40,
    batch_size=16,
    learning_rate=2e-2,
  ),
  seeds=(0, 1),
  fractions=(0.1, 0.5, 1.0),
)
COUNTED = (0, 3)


def _set(name, seed, count):
  """Finding 0 is a bright square, 3 a dark one; 5 has one image, 6 each, 7 none."""
  generator = np.random.default_rng(seed)
  images = generator.integers(90, 150, (count, 12, 12, 1), np.uint8)
  findings = np.zeros((count, 14), np.uint8)
  findings[:, 6], findings[0, 5] = 1, 1
  for i in range(count):
    findings[i, COUNTED] = i % 4 // 2, i % 2
    for column, level in ((0, 255), (3, 0)):
      if findings[i, column]:
        y, x = generator.integers(0, 7, 2)
        images[i, y : y + 5, x : x + 5] = level
  return ImageSet(
    name=name,
    images=images,
    ids=np.array([f"{name}-{i}" for i in range(count)]),
    labels={"findings": findings, "patient": 1000 * seed + np.arange(count) // 2},
    vocabulary=metadata.FINDINGS,
  )


VALIDATION = _set("validation", 4, 40)


def _shuffled(images):
  """The same images, each asked to show what another does."""
  order = np.random.default_rng(3).permutation(len(images))
  labels = dict(images.labels, findings=images.labels["findings"][order])
  return dataclasses.replace(images, name="shuffled", labels=labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """Two calls with one folder of real images' scores."""

  sets: tuple
  folder: pathlib.Path
  copies: utility.UtilityReport
  shuffled: utility.UtilityReport
  reported: list


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Result:
  folder = tmp_path_factory.mktemp("utility")
  train, test, validation = _set("train", 1, 64), _set("test", 2, 80), VALIDATION
  reported, reports = [], []
  for synthetic in (dataclasses.replace(train, name="copies"), _shuffled(train)):
    reports.append(
      utility.measure(
        train,
        synthetic,
        test,
        folder / synthetic.name,
        validation=validation,
        shared_folder=folder / "real",
        settings=SETTINGS,
        progress=lambda label, *_: reported.append(label),
      )
    )
  return Result(
    sets=(train, test),
    folder=folder,
    copies=reports[0],
    shuffled=reports[1],
    reported=reported,
  )


def _figure(report, metric, of="generated", group="all"):
  (actual,) = [
    x for x in report.measurements if (x.metric, x.of, x.group) == (metric, of, group)
  ]
  return actual


def test_utility_of_copies_equals_that_of_the_images(result):
  real = _figure(result.copies, "tstr_macro_auroc", of="real")
  assert real.value > 0.9
  # Trained on the same images, in the same order, from the same parameters.
  assert _figure(result.copies, "tstr_macro_auroc").value == real.value
  difference = _figure(result.copies, "tstr_macro_auroc_difference")
  assert (difference.value, difference.low, difference.high) == (0, 0, 0)
  for arm in ("real_and_synthetic", "synthetic_then_real"):
    assert abs(_figure(result.copies, f"{arm}_macro_auroc_difference").value) < 0.1


def test_utility_of_shuffled_labels_is_chance(result):
  tstr = _figure(result.shuffled, "tstr_macro_auroc")
  assert abs(tstr.value - 0.5) < 0.25
  difference = _figure(result.shuffled, "tstr_macro_auroc_difference")
  assert difference.value < -0.15
  real = _figure(result.shuffled, "tstr_macro_auroc", of="real")
  assert math.isclose(difference.value, tstr.value - real.value)
  assert difference.low < difference.value < difference.high
  # The curve's last point is the arm itself.
  last = result.shuffled.curve[-1]
  assert (last.fraction, last.arm) == (1.0, "synthetic_then_real")
  mine = _figure(result.shuffled, "synthetic_then_real_macro_auroc")
  assert last.auroc == mine


def test_utility_intervals_contain_the_value_and_state_their_numbers(result):
  for report in (result.copies, result.shuffled):
    defined = [x for x in report.measurements if x.value is not None]
    assert len(defined) == 3 * 2 * 3 * 4
    for x in defined:
      # A finding of a single patient has a figure, and nothing to say how sure it is.
      assert x.low is None or x.low <= x.value <= x.high, x
      assert x.low is not None or x.group != "all"
      assert (x.subject, x.better, x.num_real) == ("utility", "higher", 80)
    for arm, num in (("tstr", 64), ("real_and_synthetic", 128)):
      assert _figure(report, f"{arm}_macro_auroc").num == num
      assert _figure(report, f"{arm}_macro_auroc", of="real").num == 64


def test_utility_of_a_single_class_is_undefined(result):
  for k, reason in ((6, "80 of 80 test images"), (7, "0 of 80 test images")):
    group = f"finding: {metadata.FINDINGS[k]}"
    for metric in ("tstr_auroc", "tstr_average_precision", "tstr_auroc_difference"):
      actual = _figure(result.copies, metric, group=group)
      assert actual.value is None
      assert actual.reason.startswith(reason)


def test_utility_curve_skips_too_few_images(result):
  assert [point[:2] for point in result.copies.curve] == [
    (fraction, arm)
    for fraction in (0.1, 0.5, 1.0)
    for arm in ("real", "real_and_synthetic", "synthetic_then_real")
  ]
  for point in result.copies.curve:
    if point.fraction == 0.1:
      assert point.auroc.value is None
      assert point.auroc.reason == "6 real training images, fewer than 20"
    else:
      assert point.auroc.low <= point.auroc.value <= point.auroc.high
  assert [point.auroc.num for point in result.copies.curve if point.arm == "real"] == [
    6,
    32,
    64,
  ]


def test_utility_trains_each_classifier_once(result):
  # Two seeds; real images alone with both shares, in the first call only.
  names = {
    kind: sorted(path.name for path in (result.folder / kind).glob("*"))
    for kind in ("real", "copies", "shuffled")
  }
  first = {
    kind: [x for x in each if "first_phase" in x] for kind, each in names.items()
  }
  assert [len(x) for x in first.values()] == [0, 2, 2]
  assert [len(x) for x in names.values()] == [4, 10 + 2, 10 + 2]
  assert not any("unfinished" in name for each in names.values() for name in each)
  # Updates: 40 a phase; a second fine-tuning with a seed has one phase.
  assert len(result.reported) == 4 * 40 + 2 * (2 * (3 * 40 + 80 + 40))
  train, test = result.sets
  reported = []
  again = utility.measure(
    train,
    _shuffled(train),
    test,
    result.folder / "shuffled",
    validation=VALIDATION,
    shared_folder=result.folder / "real",
    settings=SETTINGS,
    progress=lambda *now: reported.append(now),
  )
  assert reported == []
  assert again == result.shuffled


def test_utility_resumes_and_trains_changed_inputs(result, tmp_path, monkeypatch):
  fits = []

  def fit(images, findings, settings, *, validation, params, **_):
    assert len(validation[0]) == len(validation[1]) == 40
    fits.append((len(images), settings.seed, params))
    if len(fits) == 4:
      raise KeyboardInterrupt
    return fitting.Fitted(PARAMS, [], [], 0)

  def scored(self, params, settings):
    assert params == PARAMS
    return np.random.default_rng(len(fits)).random((80, 14), np.float32)

  monkeypatch.setattr(probe_fit, "fit", fit)
  monkeypatch.setattr(utility.mixture_fit.Trainer, "score", scored)
  train, test = result.sets

  def call(synthetic=train, settings=SETTINGS):
    return utility.measure(
      train, synthetic, test, tmp_path, validation=VALIDATION, settings=settings
    )

  with pytest.raises(KeyboardInterrupt):
    call()
  assert len(list(tmp_path.iterdir())) == 3
  call()
  # The one that was interrupted is the first of the second call.
  assert fits[3:5] == [(64, 0, None)] * 2
  assert len([x for x in fits if x[2] is not None]) == 4
  count = len(fits)
  assert count == 1 + 14 + 2
  call()
  assert len(fits) == count
  # One pixel of a synthetic image: all that saw it is computed again.
  images = train.images.copy()
  images[7, 0, 0] ^= 1
  call(dataclasses.replace(train, images=list(images)))
  assert len(fits) == count + 10 + 2
  call(settings=dataclasses.replace(SETTINGS, seeds=(0, 1, 2)))
  assert len(fits) == count + 12 + 7 + 1


def test_utility_adds_multiples_of_synthetic_images(result, tmp_path, monkeypatch):
  numbers = []

  def fit(images, findings, settings, *, params, **_):
    numbers.append((len(images), params))
    return fitting.Fitted(PARAMS, [], [], 0)

  monkeypatch.setattr(probe_fit, "fit", fit)
  monkeypatch.setattr(
    utility.mixture_fit.Trainer,
    "score",
    lambda *_: np.random.default_rng(0).random((80, 14), np.float32),
  )
  train, test = result.sets
  settings = dataclasses.replace(SETTINGS, seeds=(0,), fractions=(), ratios=(1, 3))
  synthetic = train.take([*range(64), *range(26)])
  report = utility.measure(
    train, synthetic, test, tmp_path, validation=VALIDATION, settings=settings
  )
  assert settings.arms == (
    "real",
    "tstr",
    "real_and_synthetic",
    "real_and_synthetic_3x",
    "synthetic_then_real",
  )
  phases = [(64, None), (30, None), (94, None), (154, None), (30, None)]
  assert numbers == [*phases, (64, PARAMS)]
  assert _figure(report, "real_and_synthetic_3x_macro_auroc").num == 154
  assert _figure(report, "tstr_macro_auroc").num == 30


def test_utility_reports_damaged_scores(result, tmp_path):
  (path,) = (result.folder / "copies").glob("tstr-1-0-*.npz")
  train, test = result.sets
  data = path.read_bytes()
  other = next((result.folder / "shuffled").glob("tstr-1-0-*.npz")).read_bytes()
  for wrong, reported in (
    (data[:-40], "damaged"),
    (b"", "damaged"),
    (other, "of other"),
  ):
    (tmp_path / path.name).write_bytes(wrong)
    with pytest.raises(errors.InputError, match=f"{reported}.*remove it"):
      utility.measure(
        train,
        train,
        test,
        tmp_path,
        validation=VALIDATION,
        shared_folder=result.folder / "real",
        settings=SETTINGS,
      )


@pytest.mark.parametrize(
  ("change", "reported"),
  [
    ("few", "19 images in train; expected 20 or more"),
    ("none", "0 images in test; expected 1 or more"),
    ("patients", "1 patients of test are in copies too"),
    ("ids", "1 images of test are in copies too"),
    ("labels", "copies: 64 images, findings"),
    ("counts", "findings"),
    ("size", "12x12 in train, 10x12 in copies, 12x12 in test"),
    ("mixed", r"image train-5 is float32 \(12, 12, 1\)"),
    ("rare", "copies: at most 3 of 64 images .* expected a finding that 5"),
    ("rare test", "test: at most 80 of 80 .* expected a finding that 5"),
  ],
)
def test_utility_rejects_bad_sets_before_training(result, tmp_path, change, reported):
  train, test = result.sets
  copies = dataclasses.replace(train, name="copies")
  findings = train.labels["findings"]
  if change == "few":
    train = train.take(range(19))
  elif change == "none":
    test = test.take([])
  elif change == "patients":
    patient = np.where(np.arange(64) == 5, test.labels["patient"][0], -1)
    copies = dataclasses.replace(copies, labels={**copies.labels, "patient": patient})
  elif change == "ids":
    ids = np.where(np.arange(64) == 5, test.ids[0], train.ids)
    copies = dataclasses.replace(copies, ids=ids, labels={"findings": findings})
  elif change == "labels":
    copies = dataclasses.replace(copies, labels={"patient": copies.labels["patient"]})
  elif change == "counts":
    labels = {**copies.labels, "findings": findings * 2}
    copies = dataclasses.replace(copies, labels=labels)
  elif change == "size":
    copies = dataclasses.replace(copies, images=copies.images[:, :10])
  elif change == "mixed":
    images = [*copies.images[:5], copies.images[5].astype(np.float32)]
    copies = dataclasses.replace(copies, images=[*images, *copies.images[6:]])
  elif change == "rare":
    labels = {**copies.labels, "findings": findings * (np.arange(64) < 6)[:, None]}
    copies = dataclasses.replace(copies, labels=labels)
  else:
    rare = test.labels["findings"] * (np.arange(14) > 4)
    test = dataclasses.replace(test, labels={**test.labels, "findings": rare})
  with pytest.raises(errors.InputError, match=reported):
    utility.measure(
      train, copies, test, tmp_path, validation=VALIDATION, settings=SETTINGS
    )
  assert not list(tmp_path.iterdir())
