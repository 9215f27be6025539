"""Judges are compared with expert labels of images that nothing was trained on."""

import numpy as np
import pytest

from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.sources.nih import google_labels, metadata
from cxr_diffusion_jax.evaluation.judges import expert_labels

NUM = 60


@pytest.fixture
def sets(monkeypatch):
  """The first pixel of an image is its number, in each split."""

  def of_records(records, split):
    images = np.arange(NUM, dtype=np.uint8)[:, None, None, None]
    return ImageSet(
      name=split,
      images=images,
      ids=np.array([f"{split}-{row}" for row in range(NUM)]),
      labels={"patient": np.array([f"{split} {row // 2}" for row in range(NUM)])},
    )

  monkeypatch.setattr(expert_labels.image_set, "of_records", of_records)


def _scores(images):
  """Mass in multiples of 4, Nodule in others of 2; Effusion in multiples of 3."""
  number = np.array([int(image.item()) for image in images])
  return np.stack([number % 4 == 0, number % 4 == 2, number % 3 == 0], axis=1)


SCORER = expert_labels.Scorer(
  title="mine", findings=("Mass", "nodule", "Effusion"), scores_fn=_scores
)


def test_measure_compares_judges_with_expert_labels(sets):
  four = {}
  for split in ("test", "expert", "train"):
    for row in range(NUM):
      labels = dict.fromkeys(google_labels.FOUR_FINDINGS, row % 5 == 0)
      labels["Nodule or mass"] = row % 2 == 0
      four[f"{split}-{row}"] = np.array([*labels.values()], np.float32)
  every = {"test-3": np.ones(15, np.float32)}
  labels = google_labels.GoogleLabels(
    four_findings=four, all_findings=every, test_ids=frozenset()
  )
  table = {
    (one.metric, one.group): one
    for one in expert_labels.measure(None, labels, [SCORER])
  }
  union = table["auroc_by_experts_four", "finding: Nodule or mass"]
  # Training images are not judged.
  assert (union.value, union.num, union.patients) == (1, 2 * NUM, NUM)
  assert (union.judge, union.of, union.subject) == ("mine", "real", "adherence")
  assert union.low is not None
  absent = table["average_precision_by_experts_four", "finding: Fracture"]
  assert absent.reason == "the judge does not score it"
  assert table["auroc_by_experts_four", "all"].value == 1
  few = table["auroc_by_experts_all", "finding: Mass"]
  assert few.value is None
  assert "1 images" in few.reason


def test_columns_of_unions_are_the_highest_of_their_findings():
  names = ("Airspace opacity", "Abnormal", "Mass", "Fracture")
  findings = ("Edema", "Mass", "", "Pneumonia")
  assert expert_labels.columns_of(findings, names) == [[0, 3], [0, 1, 3], [1], []]
  # A judge that names a union is taken at its word.
  assert expert_labels.columns_of(("edema", "airspace opacity"), names[:1]) == [[1]]
  assert {*expert_labels.SETS["all"]} == {*metadata.FINDINGS, "Abnormal"}
