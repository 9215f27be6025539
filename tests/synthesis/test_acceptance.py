"""Judges of synthetic images: thresholds of real ones, and what they reject."""

import dataclasses

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors.classifiers import Classifier
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.synthesis import acceptance
from cxr_diffusion_jax.synthesis.rows import Subject

VOCABULARY = ("Edema", "Mass")


def _image(*scores: float) -> np.ndarray:
  """An image [1 4 1] whose pixels are its scores in percent."""
  pixels = [round(100 * score) for score in scores]
  return np.array([*pixels, *[0] * (4 - len(pixels))], np.uint8).reshape(1, 4, 1)


def _scores(images) -> np.ndarray:
  return np.stack([image.reshape(-1) for image in images]) / 100


def _subject(*findings: str, sex: str = "", unknown: tuple[str, ...] = ()) -> Subject:
  return Subject(
    findings=findings, unknown=unknown, age=None, sex=sex, view="", patient=1
  )


@pytest.fixture
def validation() -> ImageSet:
  """200 images; scores of the first label are .7 with it and below .5 without it."""
  positive = np.arange(200) % 2 == 0
  scores = np.where(positive, 0.7, np.arange(200) / 400)
  findings = np.stack([positive, np.full(200, np.nan)], axis=1)
  return ImageSet(
    name="validation",
    images=np.stack([_image(score, 0.2, 0.9 * one) for score, one in
                     zip(scores, positive, strict=True)]),
    ids=np.arange(200).astype(str),
    labels={
      "findings": findings,
      "sex": positive.astype(int),
      "view": np.full(200, -1),
    },
    vocabulary=VOCABULARY,
  )  # fmt: skip


@pytest.fixture
def classifier() -> Classifier:
  """Scores edema, nothing, and men."""
  extractor = Extractor(
    name="pixels",
    layer="pixels",
    standin=False,
    fingerprint="abc",
    width=4,
    batch_size=8,
    apply_fn=lambda params, images: images.reshape(len(images), -1) / 100,
  )
  names = ("Edema", "", "Male", "")
  return Classifier(
    title="pixels", extractor=extractor, findings=names, head_fn=lambda scores: scores
  )


@pytest.fixture
def judge(monkeypatch, validation, classifier) -> acceptance.AcceptanceJudge:
  monkeypatch.setattr(
    acceptance.classifiers_lib, "open_classifiers", lambda *_, **__: [classifier]
  )
  monkeypatch.setattr(acceptance.image_set, "of_records", lambda *_: validation)

  @dataclasses.dataclass
  class Run:
    dataset = type("Dataset", (), {"records": None, "phantom": True})

  (judge,) = acceptance.open_judges(Run(), ["pixels.onnx"])
  return judge


def test_open_judges_takes_thresholds_from_validation_images(judge):
  assert judge.names == ("Edema", "Male")
  assert judge.fingerprint == "abc"
  assert judge.real_rate == 1
  low, high = judge.low, judge.high
  assert 0.49 < low[0] < 0.7
  assert high[0] == low[0]
  assert 0 < low[1] == high[1] < 0.9


def test_objections_name_what_is_missed_and_seen(judge):
  images = np.stack([_image(0.7, 0, 0.9), _image(0.1, 0, 0.0), _image(0.7, 0, 0.0)])
  assert judge.objections(images, [_subject("Edema", sex="M")] * 3) == [
    [],
    ["Edema missed", "Male missed"],
    ["Male missed"],
  ]
  assert judge.objections(images, [_subject("Mass", sex="F")] * 3) == [
    ["Edema seen", "Male seen"],
    [],
    ["Edema seen"],
  ]
  # Of what is unknown, nothing was asked.
  assert judge.objections(images, [_subject(unknown=("Edema",))] * 3) == [[]] * 3


def test_thresholds_of_absent_labels_spare_98_percent_of_real_images(judge, validation):
  """Overlapping scores: the threshold of a false alarm is above Youden's."""
  scores = np.linspace(0, 1, 100)
  labels = (np.arange(100) % 3 == 0) & (scores > 0.3)
  low, high = acceptance.thresholds("Edema", scores, labels.astype(float))
  assert low < high
  assert np.mean(scores[~labels] > high) <= 0.03
  assert np.isnan(acceptance.thresholds("Edema", scores, np.zeros(100))).all()


def test_open_judges_refuses_unknown_names():
  assert acceptance.open_judges(None, []) == []
  with pytest.raises(errors.InputError, match="a judge 'prob'; expected probe"):
    acceptance.open_judges(None, ["prob"])
