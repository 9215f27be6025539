"""Memorisation: a planted leak is detected, and no leak is not reported as one."""

import dataclasses
import types

import numpy as np
import pytest

from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation import measurement
from cxr_diffusion_jax.evaluation.metrics import memorisation, privacy

EXTRACTOR = types.SimpleNamespace(name="net", layer="last", standin=True)
NUM, UNSEEN = 200, 400

ALL_PATIENTS = {"patient": np.array([f"patient {n}" for n in range(NUM + UNSEEN)])}

Figures = dict[tuple[str, str], measurement.Measurement]


def _images(num: int, seed: int) -> np.ndarray:
  """Pictures of noise, of squares of 2 pixels: [n 16 16 1]."""
  squares = np.random.default_rng(seed).integers(0, 256, (num, 8, 8), np.uint8)
  return squares.repeat(2, axis=1).repeat(2, axis=2)[..., None]


def _features(images: np.ndarray) -> np.ndarray:
  return images.reshape(len(images), -1)[:, ::7].astype(np.float32)


def _set(name: str, images: np.ndarray, first: int) -> ImageSet:
  """One image of each patient."""
  ids = np.array([f"{name}-{row}" for row in range(len(images))])
  patients = np.array([f"patient {first + row}" for row in range(len(images))])
  return ImageSet(name=name, images=images, ids=ids, labels={"patient": patients})


@pytest.fixture(scope="module")
def reference() -> privacy.Reference:
  """Training and test images of different patients."""
  training, test = _images(NUM, 0), _images(UNSEEN, 1)
  return privacy.make_reference(
    _features(training),
    _features(test),
    training=_set("train", training, 0),
    test=_set("test", test, NUM),
    extractor=EXTRACTOR,
  )


def _blend(originals: np.ndarray, share: float, seed: int) -> np.ndarray:
  """Images that share this much with their originals."""
  fresh = _images(len(originals), seed)
  return np.round(share * originals + (1 - share) * fresh).astype(np.uint8)


def _measure(
  reference: privacy.Reference,
  leaked: float,
  *,
  share: float = 0.0,
  seed: int = 2,
  unseen_first: int = NUM,
) -> Figures:
  """Two images of each training condition, of which a share are copies."""
  own = np.repeat(np.arange(NUM), 2)
  images = _blend(reference.training.images[own], share, seed)
  copied = np.random.default_rng(seed).permutation(len(own))[: round(leaked * len(own))]
  images[copied] = reference.training.images[own[copied]]
  elicited = memorisation.Conditioned(
    generated=dataclasses.replace(reference.training.take(own), images=images),
    originals=reference.training,
    own=own,
    features=_features(images),
    original_features=reference.training_features,
  )
  others = _blend(reference.test.images, share, seed + 1)
  unseen = memorisation.Conditioned(
    generated=_set("test", others, unseen_first),
    originals=reference.test,
    own=np.arange(UNSEEN),
    features=_features(others),
    original_features=reference.test_features,
  )
  pairs = memorisation.closest(elicited, reference)
  assert sorted(pair.generated for pair in pairs) == list(range(len(own)))
  # Copies come first, then the nearest to their own image.
  kinds = [pair.kind for pair in pairs]
  assert kinds == sorted(kinds, key=["exact", "near", "own"].index)
  far = [pair.distance for pair in pairs if pair.kind == "own"]
  assert far == sorted(far)
  assert all(pair.training == own[pair.generated] for pair in pairs)
  figures = memorisation.measure(elicited, unseen, reference, pairs)
  return {(one.metric, one.of): one for one in figures}


def _leaks(figures: Figures) -> set[str]:
  """Figures whose interval lies above the value of no leak."""
  nothing = {
    "elicited_copies": figures["elicited_copies", "real"].value,
    "elicited_copies_excess": 0,
    "elicited_tpr": 0.01,
    "elicited_auroc": 0.5,
  }
  return {name for name, value in nothing.items() if _low(figures, name) > value}


def _low(figures: Figures, name: str) -> float:
  low = figures[name, "generated"].low
  assert low is not None, name
  return low


def test_measure_detects_a_planted_leak_of_one_percent(reference):
  figures = _measure(reference, 0.01)
  assert figures["elicited_copies", "generated"].value == 0.01
  assert figures["elicited_copies", "generated"].num == 2 * NUM
  assert figures["elicited_copies", "generated"].patients == NUM
  assert "elicited_copies" in _leaks(figures)


def test_measure_detects_a_leak_of_five_percent_except_by_the_average(reference):
  figures = _measure(reference, 0.05)
  assert _leaks(figures) >= {
    "elicited_copies",
    "elicited_copies_excess",
    "elicited_tpr",
  }
  # The area counts pairs: 5 % of copies move it by 2.5 points.
  assert figures["elicited_auroc", "generated"].value < 0.6


def test_no_copies_in_both_sets_are_no_certainty(reference):
  excess = _measure(reference, 0)["elicited_copies_excess", "generated"]
  assert excess.value == 0
  assert excess.low < -0.005
  assert excess.high > 0.005


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_measure_reports_no_leak_without_one(reference, share):
  """Not even of a path that reconstructs its condition's image, seen or not."""
  leaks = [
    _leaks(_measure(reference, 0, share=share, seed=10 * k + 2)) for k in range(1, 6)
  ]
  of_all = [name for one in leaks for name in one]
  if share:
    # Reconstructions are copies, of unseen images as well.
    assert of_all.count("elicited_copies") == len(leaks)
    of_all = [name for name in of_all if name != "elicited_copies"]
  assert len(of_all) <= 1


def test_measure_excludes_training_patients_from_the_unseen(reference):
  figures = _measure(reference, 0, unseen_first=0)
  assert figures["elicited_tpr", "generated"].num_real == UNSEEN - NUM
  assert "200 of unseen" in figures["elicited_tpr", "generated"].reason
  assert figures["elicited_auroc", "generated"].value == pytest.approx(0.5, abs=0.15)


def test_measure_without_unseen_patients_states_a_reason(reference):
  trained = dataclasses.replace(
    reference, training=dataclasses.replace(reference.training, labels=ALL_PATIENTS)
  )
  figures = _measure(trained, 0)
  assert figures["elicited_copies", "generated"].value == 0
  for name in ("elicited_copies_excess", "elicited_tpr", "elicited_auroc"):
    assert "0 of unseen patients" in figures[name, "generated"].reason
