"""Published classifiers judge the findings that they share with the dataset."""

import dataclasses
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors import classifiers, networks
from cxr_diffusion_jax.encoders.extractors import opening as features
from cxr_diffusion_jax.evaluation.judges import opening
from cxr_diffusion_jax.evaluation.judges.classifier import ClassifierJudge

VOCABULARY = ("Pleural_Thickening", "Hernia", "pleural effusion")


def _classifier(findings=("Effusion", "", "Pleural Thickening", "Lung Opacity")):
  """Its features are the first pixels of an image, and its scores their negatives."""
  extractor = features.Extractor(
    name="pixels",
    layer="pixels",
    standin=False,
    fingerprint="pixels",
    width=4,
    batch_size=8,
    apply_fn=lambda params, images: images[:, 0, :4, 0].astype(np.float32),
  )
  return classifiers.Classifier(
    title="pixels, inverted",
    extractor=extractor,
    findings=findings,
    head_fn=lambda pixels: -pixels,
  )


def _images(seed, darkest=0):
  """Thickening darkens pixel 2, and effusion half of the time pixel 0."""
  rng = np.random.default_rng(seed)
  findings = (rng.random((60, 3)) < 0.4).astype(np.uint8)
  images = rng.integers(darkest + 100, darkest + 140, (60, 4, 4, 1)).astype(np.uint8)
  images[:, 0, 2, 0] -= 60 * findings[:, 0]
  images[:, 0, 0, 0] -= 60 * (findings[:, 2] & (np.arange(60) % 2 == 0))
  return ImageSet(
    name="planted",
    images=images,
    ids=np.array([f"{seed}-{row}" for row in range(60)]),
    labels={"findings": findings, "patient": np.arange(60) // 2},
    vocabulary=VOCABULARY,
  )


def _find(table, metric, group="all"):
  (one,) = (one for one in table if (one.metric, one.group) == (metric, group))
  return one


def test_classifier_judges_shared_findings_by_any_spelling():
  judge = ClassifierJudge(classifier=_classifier(), validation=_images(1))
  table = judge.measure(_images(0), "generated", {})
  assert _find(table, "auroc", "finding: Pleural_Thickening").value == 1
  seen = _find(table, "found", "finding: Pleural_Thickening")
  assert (seen.value, seen.num, seen.patients) == (1, 60, 30)
  assert (seen.judge, seen.standin) == ("pixels, inverted", False)
  assert 0.6 < _find(table, "auroc", "finding: pleural effusion").value < 0.9
  for metric in ("auroc", "average_precision", "found", "false_alarms"):
    absent = _find(table, metric, "finding: Hernia")
    assert (absent.value, absent.reason) == (None, "pixels does not score it")
    each = [_find(table, metric, f"finding: {VOCABULARY[k]}").value for k in (0, 2)]
    assert _find(table, metric).value == pytest.approx(np.mean(each))


def test_classifier_has_its_thresholds_from_validation_images():
  generated = _images(0)
  for darkest, share in ((0, 1), (-80, 0), (80, 1)):
    judge = ClassifierJudge(classifier=_classifier(), validation=_images(1, darkest))
    table = judge.measure(generated, "generated", {})
    assert _find(table, "found", "finding: Pleural_Thickening").value == share
  assert _find(table, "false_alarms", "finding: Pleural_Thickening").value == 1
  # Without them, what needs no threshold is left.
  table = ClassifierJudge(classifier=_classifier()).measure(generated, "real", {})
  assert {one.metric for one in table} == {"auroc", "average_precision"}
  assert {one.of for one in table} == {"real"}


def test_classifier_reads_features_that_are_computed_already():
  images = _images(0)
  pixels = {"pixels": 0 * images.images[:, 0, :4, 0].astype(np.float32)}
  table = ClassifierJudge(classifier=_classifier()).measure(images, "real", pixels)
  assert _find(table, "auroc").value == 0.5


def test_classifier_without_shared_findings_is_undefined():
  other = _classifier(("Lung Lesion", "", "Fracture", ""))
  with pytest.raises(errors.InputError, match="expected some of Lung Lesion, Fracture"):
    ClassifierJudge(classifier=other).measure(_images(0), "real", {})
  judges, _ = opening.open_judges(None, "none", classifiers=[other])
  (one,) = opening.measure_all(judges, _images(0), "generated", {})
  assert (one.metric, one.value, one.judge) == ("auroc", None, "pixels, inverted")
  assert "Lung Lesion" in one.reason


def test_classifier_of_densenet_uses_its_own_logits(
  small_densenet, densenet_arrays, tmp_path
):
  path = tmp_path / "densenet.safetensors"
  safetensors.numpy.save_file(densenet_arrays, path)
  weights = {"densenet": str(path)}
  assert classifiers.open_classifiers({}) == []
  (one,) = classifiers.open_classifiers(weights)
  assert one.places(("Mass", "Lung_Opacity", "effusion")) == {1: 2, 2: 0}
  images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1)).astype(np.uint8)
  _, logits = small_densenet.module.apply(
    {"params": one.extractor.params}, images.astype(np.float32)
  )
  scores = one.head_fn(features.extract(one.extractor, images))
  np.testing.assert_allclose(scores, logits, rtol=1e-5)
  # Parameters are shared with features of the same network.
  opened, _ = features.open_extractors(["densenet"], weights=weights)
  (again,) = classifiers.open_classifiers(weights, opened)
  assert again.extractor is opened[0]
  # torchxrayvision has no threshold of what its weights were not trained on.
  densenet_arrays["op_threshs"][1] = np.nan
  safetensors.numpy.save_file(densenet_arrays, path)
  assert networks.densenet_findings(str(path)) == ("Effusion", "", "Lung Opacity")


def test_open_classifiers_names_each_classifier_of_a_user(monkeypatch):
  def of_onnx(location):
    return dataclasses.replace(
      _classifier(("Effusion", "", "Mass", "")),
      title=f"{pathlib.Path(location).stem}, ONNX",
      head_fn=lambda scores: scores,
    )

  monkeypatch.setattr(classifiers, "of_onnx", of_onnx)
  opened = classifiers.open_classifiers({}, files=["a/x.onnx", "b/y.onnx"])
  assert [one.title for one in opened] == ["x, ONNX", "y, ONNX"]
  judges, _ = opening.open_judges(None, "none", classifiers=opened)
  table = opening.measure_all(judges, _images(0), "generated", {})
  effusion = "finding: pleural effusion"
  values = [
    one.value for one in table if (one.metric, one.group) == ("auroc", effusion)
  ]
  # Dark pixels have low scores here, and are not inverted.
  assert len(values) == 2
  assert max(values) < 0.4
  with pytest.raises(errors.InputError, match="expected files of different names"):
    classifiers.open_classifiers({}, files=["a/x.onnx", "b/x.onnx"])
