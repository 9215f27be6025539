"""Patients that a network recognises are reported, and no others."""

import dataclasses

import numpy as np

from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.evaluation.metrics import memorisation, reidentification

NUM = 40


def _network():
  """Its embedding is the first four pixels."""
  return extractor_lib.Extractor(
    name="onnx-who",
    layer="embedding",
    standin=False,
    fingerprint="",
    width=4,
    batch_size=20,
    apply_fn=lambda params, images: images[:, 0, :4, 0].astype(np.float32),
  )


def _training(images_a_patient):
  """Images of a patient differ little."""
  rng = np.random.default_rng(0)
  faces = rng.integers(0, 240, (NUM, 4, 4, 1)).repeat(images_a_patient, axis=0)
  images = (faces + rng.integers(0, 3, faces.shape)).astype(np.uint8)
  return ImageSet(
    name="train",
    images=images,
    ids=np.arange(len(images)).astype(str),
    labels={"patient": np.arange(NUM).repeat(images_a_patient)},
  )


def _measure(training, images_a_patient, recognised):
  """Two images of the first image of each patient, of which a share show who it is."""
  own = np.repeat(np.arange(NUM) * images_a_patient, 2)
  images = training.images[own].copy()
  hidden = np.random.default_rng(1).permutation(2 * NUM)[round(recognised * 2 * NUM) :]
  images[hidden] = np.random.default_rng(2).integers(0, 240, (len(hidden), 4, 4, 1))
  elicited = memorisation.Conditioned(
    generated=dataclasses.replace(training.take(own), images=images),
    originals=training,
    own=own,
    features=np.zeros((2 * NUM, 1)),
    original_features=np.zeros((len(training), 1)),
  )
  figures = reidentification.measure(elicited, _network())
  return {(one.metric, one.of): one for one in figures}


def test_measure_reports_recognised_patients():
  figures = _measure(_training(2), 2, 1.0)
  for of in ("generated", "real"):
    for name in ("auroc", "tpr"):
      figure = figures[f"reidentification_{name}", of]
      assert figure.value > 0.98
      assert (figure.patients, figure.judge) == (NUM, "onnx-who, embedding")
  assert figures["reidentification_tpr", "generated"].num == 2 * NUM
  assert figures["reidentification_tpr", "real"].num == NUM
  some = _measure(_training(2), 2, 0.25)["reidentification_tpr", "generated"]
  assert 0.01 < some.low < 0.25 < some.high


def test_measure_recognises_no_patient_by_chance():
  figures = _measure(_training(2), 2, 0.0)
  for name, chance in (("auroc", 0.5), ("tpr", 0.01)):
    figure = figures[f"reidentification_{name}", "generated"]
    assert figure.low <= chance <= figure.high


def test_measure_of_real_pairs_needs_patients_with_several_images():
  figures = _measure(_training(1), 1, 1.0)
  assert figures["reidentification_auroc", "generated"].value > 0.98
  figure = figures["reidentification_auroc", "real"]
  assert figure.value is None
  assert figure.reason == "0 patients with such images; expected 20"
