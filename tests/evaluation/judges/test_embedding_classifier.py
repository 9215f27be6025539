"""What is planted in embeddings is found in them, by labels of two sources."""

import dataclasses

import numpy as np
import pytest

from cxr_diffusion_jax.data.columns import writer as column_writer
from cxr_diffusion_jax.data.sources.nih import google_labels, metadata
from cxr_diffusion_jax.evaluation.judges import embedding_classifier, expert_labels

SIZES = {"train": 160, "validation": 40, "test": 120, "expert": 60}
SEEN = ("Pneumothorax", "Mass", "Nodule", "Edema")
NEVER = "Hernia"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
  """Names and findings of a split."""

  of_split: dict
  vocabulary: tuple = metadata.FINDINGS

  def ids(self, split):
    return self.fields(split)["id"]

  def fields(self, split):
    return self.of_split[split]


@pytest.fixture(scope="module")
def records():
  generator = np.random.default_rng(0)
  of_split = {}
  for split, count in SIZES.items():
    findings = (generator.random((count, 14)) < 0.25).astype(np.uint8)
    findings[:, metadata.FINDINGS.index(NEVER)] = 0
    ids = np.array([f"{split}_{i:03d}" for i in range(count)])
    of_split[split] = {"id": ids, "findings": findings, "patient": ids}
  return Records(of_split=of_split)


@pytest.fixture(scope="module")
def column(records, tmp_path_factory):
  """[4 20] an image: noise, and each finding of `SEEN` on an axis of one place."""
  generator = np.random.default_rng(1)
  ids = {split: fields["id"] for split, fields in records.of_split.items()}
  values = {}
  for split, fields in records.of_split.items():
    values[split] = 0.1 * generator.standard_normal((SIZES[split], 4, 20))
    for axis, name in enumerate(SEEN):
      present = fields["findings"][:, metadata.FINDINGS.index(name)]
      values[split][:, axis % 4, axis] += 2 * present
  return column_writer.write_column(
    tmp_path_factory.mktemp("records"),
    ids=ids,
    name="img_emb",
    shape=(4, 20),
    encoder="planted",
    standin=True,
    fingerprint="",
    # The last row of the test split has no value.
    batches=[
      (ids[split][: 119 if split == "test" else None], values[split][:119])
      if split == "test"
      else (ids[split], values[split])
      for split in ids
    ],
    missing="drop",
    dtype="float32",
  )


@pytest.fixture(scope="module")
def expert(records):
  """What experts say of the expert split and of ten test images: what NIH says."""
  four, every = {}, {}
  for split, rows in (("expert", range(60)), ("test", range(10))):
    fields = records.fields(split)
    targets = embedding_classifier.targets_of(fields["findings"])
    for row in rows:
      actual = dict(zip(embedding_classifier.TARGETS, targets[row], strict=True))
      actual["Fracture"] = row % 2
      four[fields["id"][row]] = np.array(
        [actual[name] for name in google_labels.FOUR_FINDINGS], np.float32
      )
  for row, name in enumerate(records.ids("validation")[:3]):
    every[name] = np.full(15, row % 2, np.float32)
  return google_labels.GoogleLabels(
    four_findings=four, all_findings=every, test_ids=frozenset()
  )


def _find(table, metric, name=""):
  group = f"finding: {name}" if name else "all"
  (one,) = (m for m in table if (m.metric, m.group) == (metric, group))
  return one


def test_embedding_classifier_finds_planted_findings(records, column, expert):
  table = embedding_classifier.measure(records, column, expert=expert)
  for name in SEEN:
    assert _find(table, "auroc (NIH labels)", name).value == 1
  absent = _find(table, "auroc (NIH labels)", "Fibrosis")
  assert absent.low < 0.5 < absent.high
  assert absent.num == 119
  assert "160 training images" in _find(table, "auroc (NIH labels)", NEVER).reason
  of_four = "auroc (four expert labels)"
  assert _find(table, of_four, "Pneumothorax").value == 1
  assert _find(table, of_four, "Nodule or mass").value > 0.99
  assert _find(table, of_four).num == 70
  assert "NIH has no label" in _find(table, of_four, "Fracture").reason
  few = _find(table, "average_precision (all expert labels)")
  assert few.value is None
  assert "3 images, at most 1 with the same finding; expected" in few.reason
  assert {(one.subject, one.of, one.standin) for one in table} == {
    ("embeddings", "real", True)
  }


def test_targets_of_unions_are_of_any_of_their_findings():
  names = embedding_classifier.TARGETS
  result = embedding_classifier.targets_of(np.eye(15, 14))
  np.testing.assert_array_equal(result[:, :14], np.eye(15, 14))
  for union, parts in expert_labels.UNIONS.items():
    has = {names[k] for k in range(14) if result[k, names.index(union)]}
    assert has == set(parts)
  assert not result[14].any()


def test_targets_of_another_vocabulary_are_unknown_where_nothing_is_stated():
  vocabulary = ("Edema", "Pneumothorax", "Airspace_Opacity")
  findings = np.float32([[0, 0, 1], [1, 0, 0], [0, np.nan, np.nan]])
  result = embedding_classifier.targets_of(findings, vocabulary)
  table = dict(zip(embedding_classifier.TARGETS, result.T.tolist(), strict=True))
  assert table["Edema"] == [0, 1, 0]
  np.testing.assert_array_equal(table["Pneumothorax"], [0, 0, np.nan])
  assert np.isnan(table["Mass"]).all()
  # The dataset's own label goes before the union of its parts.
  np.testing.assert_array_equal(table["Airspace opacity"], [1, 0, np.nan])
  np.testing.assert_array_equal(table["Abnormal"], [np.nan, 1, np.nan])
