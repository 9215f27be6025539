"""Privacy: figures of features placed by hand, reasons for none, refusals."""

import dataclasses
import types

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation.metrics import nearness, privacy

EXTRACTOR = types.SimpleNamespace(name="net", layer="last", standin=True)


def _set(name: str, num: int, *, seed: int, side: int = 16, **labels) -> ImageSet:
  images = np.random.default_rng(seed).integers(0, 256, (num, side, side, 1), np.uint8)
  ids = np.array([f"{name}-{i}" for i in range(num)])
  return ImageSet(name=name, images=images, ids=ids, labels=labels)


def _line(*places: float) -> np.ndarray:
  """Features [n 1]."""
  return np.array(places, np.float32)[:, None]


@pytest.fixture(scope="module")
def reference() -> privacy.Reference:
  """Training images at 0, 1000, ..., test images 1, 2, ..., 100 away from these."""
  places = 1000.0 * np.arange(100)
  return privacy.make_reference(
    _line(*places),
    _line(*(places + np.arange(1, 101))),
    training=_set("train", 100, seed=0, patient=np.arange(100)),
    test=_set("test", 100, seed=1, patient=np.arange(100, 200)),
    extractor=EXTRACTOR,
  )


def _reported(report: privacy.PrivacyReport) -> dict:
  return {(x.metric, x.of): x for x in report.measurements}


def test_measure_compares_distances_with_those_of_real_images(reference):
  # 40 images nearer than the nearest real one, 60 as far as real ones are.
  places = 1000.0 * np.arange(100) + np.repeat([0.5, 50.0], [40, 60])
  generated = _set("made", 100, seed=2)
  report = privacy.measure(_line(*places), generated, reference)
  reported = _reported(report)
  for percent, result, real in ((5, 0.5, 5), (50, 50, 50)):
    name = f"distance_to_training_p{percent}"
    assert reported[name, "generated"].value == result
    assert reported[name, "real"].value == real
  share = reported["nearer_to_training_than_real_p5", "generated"]
  assert share.value == pytest.approx(0.4)
  assert 0.25 < share.low < 0.4 < share.high < 0.55
  assert reported[share.metric, "real"].value == pytest.approx(0.04)
  assert all(x.subject == "privacy" for x in report.measurements)
  assert reported["membership_auroc", "generated"].num_real == 200
  assert {x.judge for x in report.measurements} == {"net, last", ""}
  assert not any("condition" in name for name, _ in reported)


def test_measure_lists_nearest_pairs_first(reference):
  generated = _set("made", 3, seed=2)
  report = privacy.measure(_line(2005, 30.5, 999), generated, reference)
  rows = [(x.generated, x.training, x.distance) for x in report.nearest]
  assert rows == [(2, 1, 1), (0, 2, 5), (1, 0, 30.5)]
  assert [x.real_share for x in report.nearest] == [0, 0.04, 0.3]
  first = report.nearest[0]
  assert (first.generated_id, first.training_id) == ("made-2", "train-1")
  assert report.duplicates == []


def test_copies_are_listed_and_counted_once_an_image(reference):
  training = reference.training
  doubled = np.concatenate([training.images[:99], training.images[:1]])
  twice = privacy.make_reference(
    reference.training_features,
    reference.test_features,
    training=dataclasses.replace(training, images=doubled),
    test=reference.test,
    extractor=EXTRACTOR,
  )
  generated = _set("made", 4, seed=2)
  generated.images[1] = doubled[0]
  generated.images[2] = np.clip(doubled[7].astype(int) * 0.7 + 20, 0, 255)
  report = privacy.measure(_line(7, 500, 7, 7), generated, twice)
  listed = [(x.kind, x.generated, x.training) for x in report.duplicates]
  assert listed == [("exact", 1, 0), ("exact", 1, 99), ("near", 2, 7)]
  assert [x.distance for x in report.duplicates] == [500, 98500, 6993]
  reported = _reported(report)
  assert reported["exact_copies", "generated"].value == 1 / 4
  assert reported["copies", "generated"].value == 2 / 4
  assert reported["copies", "real"].value == reported["exact_copies", "real"].value == 0
  assert reported["copies", "real"].high > 0.01


def test_measure_reports_the_distance_to_the_condition_separately(reference):
  conditioning = reference.test_features
  generated = _set("made", 100, seed=2, patient=np.arange(100, 200))
  features = conditioning + 0.25
  report = privacy.measure(features, generated, reference, conditioning=conditioning)
  reported = _reported(report)
  assert reported["distance_to_condition_p50", "generated"].value == 0.25
  assert reported["distance_to_condition_p50", "real"].value == 50
  assert reported["nearer_to_condition_than_real_p5", "generated"].value == 1
  assert reported["patient_identified", "generated"].value == 1
  report = privacy.measure(
    np.roll(features, 1, axis=0),
    dataclasses.replace(generated, labels={}),
    reference,
    conditioning=conditioning,
  )
  assert _reported(report)["patient_identified", "generated"].value == 0


def test_measure_detects_nearer_members(reference):
  generated = _set("made", 100, seed=2)
  report = privacy.measure(reference.training_features, generated, reference)
  actual = _reported(report)["membership_auroc", "generated"]
  assert (actual.value, actual.high) == (1, 1)
  # 100 patients of each side do not prove it for all.
  assert 0.95 < actual.low < 1


@pytest.mark.parametrize("num", [99, 101, 150, 300])
def test_share_nearer_is_at_most_its_share_where_nothing_leaks(num):
  # Where real values are on average, and all values that may be nearer.
  real = np.arange(1, num + 1) / (num + 1)
  values = (np.arange(10**4) + 0.5) / 10**4
  share_fn = nearness.share_nearer_fn(values, real, 1)
  share = share_fn(np.ones((1, len(values))), np.ones((1, num)))
  assert 0.005 < share[0] < 0.01 + 1e-4


def test_privacy_is_undefined_for_too_few_images():
  reference = privacy.make_reference(
    _line(*range(30)),
    _line(*range(19)),
    training=_set("train", 30, seed=0),
    test=_set("test", 19, seed=1),
    extractor=EXTRACTOR,
  )
  generated = _set("made", 30, seed=2)
  reported = _reported(privacy.measure(_line(*range(30)), generated, reference))
  reasons = {key: x.reason for key, x in reported.items() if x.value is None}
  assert set(reasons) == {
    ("distance_to_training_p1", "generated"),
    ("distance_to_training_p1", "real"),
    ("distance_to_training_p5", "generated"),
    ("distance_to_training_p5", "real"),
    ("nearer_to_training_than_real_p1", "generated"),
    ("nearer_to_training_than_real_p1", "real"),
    ("nearer_to_training_than_real_p5", "generated"),
    ("nearer_to_training_than_real_p5", "real"),
    ("membership_auroc", "generated"),
  }
  assert "expected at least 400" in reasons["distance_to_training_p1", "real"]
  assert "expected at least 100" in reasons["distance_to_training_p5", "real"]
  assert "19 images" in reasons["membership_auroc", "generated"]
  assert "20 of each" in reasons["membership_auroc", "generated"]


def test_privacy_rejects_other_sizes_and_features(reference):
  with pytest.raises(errors.InputError, match=r"made: images of 12x12.*16x16"):
    privacy.measure(_line(1), _set("made", 1, seed=2, side=12), reference)
  with pytest.raises(errors.InputError, match="no images in made"):
    privacy.measure(np.zeros((0, 1)), _set("made", 0, seed=2), reference)
  with pytest.raises(ValueError, match="of 2 images"):
    privacy.measure(_line(1), _set("made", 2, seed=2), reference)


def test_identified_counts_images_nearest_to_their_own_patient(reference):
  real = nearness.RealDistances(
    distances=reference.distances,
    groups=np.arange(100),
    num_training=100,
    judged={"judge": "net, last", "standin": True},
  )
  features = _line(0, 0.1, 0.2, 9)
  conditioning = _line(0, 0.1, 5, 9)
  names = np.array(["a", "a", "b", "c"])
  actual = nearness.identified(real, features, conditioning, names)
  # The third is nearest to the second's image, which is of somebody else.
  assert actual.value == 3 / 4
  assert actual.num_real == 4
