"""Defects planted in real images: which figure catches which, and by how much.

phantoms no judge was trained on -> spoilt on purpose -> figures beside those of the
unspoilt, which are the real-against-real floor. The table:

python -m pytest tests/evaluation/test_planted_defects.py -s
"""

from collections.abc import Callable, Mapping
import dataclasses

import numpy as np
import pytest
import scipy.ndimage

from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.metrics import (
  condition_diversity,
  fidelity,
  privacy,
)
from cxr_diffusion_jax.extras.phantom import render

SIDE, NUM, NUM_CONDITIONS = 32, 120, 20
KINDS = ((), ("Cardiomegaly",), ("Effusion",), ("Pneumothorax",))

# Which training image each planted copy is of: another patient of the same findings.
ORIGINALS = [(i, (i - len(KINDS)) % NUM) for i in range(NUM)]

# Figure -> decimals in the table.
FIGURES = {
  "Frechet": 2,
  "KID": 3,
  "precision": 2,
  "recall": 2,
  "density": 2,
  "coverage": 2,
  "AUROC": 2,
  "MS-SSIM in condition": 2,
  "nearer to training": 2,
  "copies": 2,
  "membership": 2,
  "nearer to condition": 2,
}

FLOOR = "none: real against real"

# Defect -> figure -> value.
Rows = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
  """A network's part, played by fixed formulas: named as extractors are."""

  mean: np.ndarray
  axes: np.ndarray
  weights: np.ndarray
  name: str = "patches"
  layer: str = "principal components"
  standin: bool = True

  def features(self, images: np.ndarray) -> np.ndarray:
    """[n 16]."""
    return (_patches(images) - self.mean) @ self.axes

  def scores(self, images: np.ndarray) -> np.ndarray:
    """[n 3] of the findings."""
    return (_patches(images) - self.mean) @ self.weights


def _patches(images: np.ndarray) -> np.ndarray:
  """Mean grey of 8x8 places, and how much detail of three sizes 4x4 places have."""
  values = images[..., 0] / 255
  blurred = [scipy.ndimage.gaussian_filter(values, (0, s, s)) for s in (0, 0.7, 1.5, 3)]
  detail = np.square(np.diff(blurred, axis=0)).reshape(3, -1, 4, 8, 4, 8)
  detail = np.log(np.sqrt(detail.mean(axis=(3, 5)) + 1e-6)).swapaxes(0, 1)
  grey = values.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
  parts = grey, 0.2 * detail
  return np.concatenate([part.reshape(len(values), -1) for part in parts], axis=1)


def _judge(images: np.ndarray, findings: np.ndarray) -> Judge:
  patches = _patches(images)
  mean = patches.mean(axis=0)
  centred = patches - mean
  ridge = centred.T @ centred + np.eye(centred.shape[1])
  weights = np.linalg.solve(ridge, centred.T @ (findings - findings.mean(axis=0)))
  axes = np.linalg.svd(centred, full_matrices=False)[2][:16].T
  return Judge(mean=mean, axes=axes, weights=weights)


def _phantoms(seed: int) -> np.ndarray:
  kinds = [KINDS[i % len(KINDS)] for i in range(NUM)]
  results = [
    render.make_phantom(seed, i, size=SIDE, findings=x) for i, x in enumerate(kinds)
  ]
  return np.stack([phantom.image for phantom in results])[..., None]


def _set(name: str, images: np.ndarray, first_patient: int) -> ImageSet:
  return ImageSet(
    name=name,
    images=images,
    ids=np.array([f"{name} {i}" for i in range(NUM)]),
    labels={"patient": np.arange(NUM) + first_patient},
  )


def _grey(values: np.ndarray) -> np.ndarray:
  return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _spoilt(
  train: np.ndarray, test: np.ndarray, good: np.ndarray, asked: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Defect -> images, and the findings asked for."""
  rng = np.random.default_rng(0)
  copies = train[[original for _, original in ORIGINALS]]
  collapsed = good[np.arange(NUM) % NUM_CONDITIONS] + rng.normal(0, 2, good.shape)
  blurred = scipy.ndimage.gaussian_filter(good.astype(np.float64), (0, 1, 1, 0))
  return {
    FLOOR: (good, asked),
    "mode collapse": (_grey(collapsed), asked),
    "memorised copies": (copies, asked),
    "copies made brighter": (_grey(copies + 40.0), asked),
    "condition's image again": (_grey(test + rng.normal(0, 4, good.shape)), asked),
    "shuffled labels": (good, rng.permutation(asked)),
    "blur": (_grey(blurred), asked),
    "brighter": (_grey(good + 25.0), asked),
  }


def _figures(
  judge: Judge,
  reference: privacy.Reference,
  images: np.ndarray,
  asked: np.ndarray,
) -> tuple[dict[str, float], privacy.PrivacyReport]:
  features, real = judge.features(images), reference.test_features
  report = privacy.measure(
    features,
    _set("generated", images, NUM),
    reference,
    conditioning=real,
  )
  # Image i is of condition i modulo the number of conditions.
  by_condition = np.arange(NUM).reshape(-1, NUM_CONDITIONS).T
  within = condition_diversity.measure(
    images[by_condition],
    features[by_condition],
    real=reference.test,
    real_features=real,
    extractor=judge,
    num_pairs=64,
  )
  result = {(x.metric, x.of, x.group): x.value for x in (*report.measurements, *within)}
  table = fidelity.measure(real, features, extractor=judge)
  printed = {row.metric: row.value for row in table}
  scores = judge.scores(images)
  judged = adherence.measure(scores, asked, np.zeros(3))
  figures = (
    *(
      printed[name]
      for name in (
        *("frechet_distance", "kernel_distance"),
        *("precision", "recall", "density", "coverage"),
      )
    ),
    judged.macro["auroc"].value,
    *(
      result[name, "generated", "all"]
      for name in (
        "ms_ssim_within_condition",
        "nearer_to_training_than_real_p5",
        "copies",
        "membership_auroc",
        "nearer_to_condition_than_real_p5",
      )
    ),
  )
  return dict(zip(FIGURES, figures, strict=True)), report


@pytest.fixture(scope="module")
def result() -> dict[str, tuple[dict[str, float], privacy.PrivacyReport]]:
  """Defect -> figures, and what the report on privacy lists."""
  train, test, good = (_phantoms(seed) for seed in range(3))
  asked = np.stack([np.arange(NUM) % len(KINDS) == k for k in (1, 2, 3)], axis=1)
  judge = _judge(train, asked)
  reference = privacy.make_reference(
    judge.features(train),
    judge.features(test),
    training=_set("train", train, 0),
    test=_set("test", test, NUM),
    extractor=judge,
  )
  return {
    name: _figures(judge, reference, images, labels)
    for name, (images, labels) in _spoilt(train, test, good, asked).items()
  }


@pytest.fixture(scope="module")
def figures(result) -> Rows:
  return {name: values for name, (values, _) in result.items()}


def _moved(figures: Rows, defect: str) -> Callable[[str], float]:
  """Figure -> its change from the floor."""
  return lambda name: figures[defect][name] - figures[FLOOR][name]


def _table(figures: Rows) -> str:
  lines = [["Defect", *FIGURES], ["---"] + ["---:"] * len(FIGURES)]
  for defect, row in figures.items():
    # No minus sign before a zero.
    cells = [f"{round(row[x], n) + 0.0:.{n}f}" for x, n in FIGURES.items()]
    lines.append([defect, *cells])
  return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def test_planted_defects_are_absent_from_the_floor(figures):
  print(f"\n{_table(figures)}")
  row = figures[FLOOR]
  assert row["Frechet"] < 0.06
  assert abs(row["KID"]) < 0.005
  assert min(row["precision"], row["recall"], row["coverage"]) > 0.85
  assert row["density"] == pytest.approx(1, abs=0.1)
  assert row["AUROC"] > 0.7
  assert row["nearer to training"] < 0.1
  assert row["copies"] == row["nearer to condition"] == 0
  assert row["membership"] == pytest.approx(0.5, abs=0.1)


def test_planted_mode_collapse_lowers_recall_coverage_and_diversity(figures):
  moved = _moved(figures, "mode collapse")
  assert moved("recall") < -0.8
  assert moved("coverage") < -0.3
  assert moved("MS-SSIM in condition") > 0.2
  assert abs(moved("precision")) < 0.1


def test_planted_copies_have_good_distances_and_are_listed(figures, result):
  moved = _moved(figures, "memorised copies")
  assert moved("nearer to training") > 0.9
  assert moved("copies") == 1
  assert moved("membership") > 0.4
  # By every distance these are perfect: a tenth of what a little blur adds, or less.
  for name in ("Frechet", "KID"):
    assert moved(name) < 0.1 * _moved(figures, "blur")(name)
  assert moved("AUROC") > 0
  listed = result["memorised copies"][1].duplicates
  assert {pair.kind for pair in listed} == {"exact"}
  assert sorted((x.generated, x.training) for x in listed) == ORIGINALS


def test_planted_copies_are_detected_at_any_brightness(figures, result):
  assert figures["copies made brighter"]["copies"] == 1
  # The distance of features is fooled.
  assert figures["copies made brighter"]["nearer to training"] == 0
  listed = result["copies made brighter"][1].duplicates
  assert all(pair.kind == "near" and pair.correlation > 0.9 for pair in listed)
  assert sorted((x.generated, x.training) for x in listed) == ORIGINALS


def test_planted_condition_images_are_reported_as_copies(figures, result):
  defect = "condition's image again"
  assert _moved(figures, defect)("nearer to condition") > 0.9
  assert _moved(figures, defect)("Frechet") < 0
  for name, low, high in ((defect, 0.9, 1), (FLOOR, 0, 0.1)):
    reported = {x.metric: x.value for x in result[name][1].measurements}
    assert low <= reported["patient_identified"] <= high
  # Made from unseen images: that these are near says nothing of what was trained on.
  assert figures[defect]["membership"] == pytest.approx(0.5, abs=0.1)


def test_planted_shuffled_labels_lower_only_adherence(figures):
  moved = _moved(figures, "shuffled labels")
  assert moved("AUROC") < -0.2
  assert figures["shuffled labels"]["AUROC"] == pytest.approx(0.5, abs=0.1)
  assert all(moved(name) == 0 for name in FIGURES if name != "AUROC")


def test_planted_blur_lowers_precision_and_recall(figures):
  moved = _moved(figures, "blur")
  assert figures["blur"]["Frechet"] > 10 * figures[FLOOR]["Frechet"]
  assert moved("KID") > 0.05
  assert moved("precision") < -0.4
  assert moved("recall") < -0.4
  assert abs(moved("AUROC")) < 0.05
  assert figures["blur"]["copies"] == 0


def test_planted_brightness_moves_distances_and_makes_no_copies(figures):
  moved = _moved(figures, "brighter")
  assert figures["brighter"]["Frechet"] > 10 * figures[FLOOR]["Frechet"]
  assert moved("KID") > 0.05
  assert moved("density") < -0.2
  assert abs(moved("AUROC")) < 0.05
  assert figures["brighter"]["copies"] == 0
