"""`data/pipeline.py`: columns of a reference are those of the patient's other image."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cxr_diffusion_jax.data import pipeline
from cxr_diffusion_jax.data.columns import column as columns
from cxr_diffusion_jax.data.columns import writer as column_writer
from cxr_diffusion_jax.data.records import records
from tests.data.record_settings import RecordSettings


@pytest.fixture
def prepare(make_tree, tmp_path) -> Callable[..., records.Records]:
  """Makes the records of a tree: `prepare(per_patient=1)`."""

  def make(**options) -> records.Records:
    root = make_tree(**options).root
    return records.prepare_records(
      RecordSettings(root=root, folder=tmp_path / "records", image_size=8)
    )

  return make


def column(
  of: records.Records, name: str, absent: Sequence[int] = ()
) -> columns.Column:
  """Row i of a split is filled with i + 1; some training rows have no value."""
  ids = {split: of.ids(split) for split in of.num_rows}
  batches = []
  for split, n in of.num_rows.items():
    rows = np.setdiff1d(np.arange(n), [*absent] * (split == "train")).astype(int)
    values = np.ones((len(rows), 2, 3)) * (rows + 1)[:, None, None]
    batches.append((ids[split][rows], values))
  return column_writer.write_column(
    of.folder, ids=ids, name=name, shape=(2, 3), encoder="none", standin=True,
    fingerprint="f", batches=batches, missing="drop",
  )  # fmt: skip


def joined(
  of: records.Records, split: str = "train", **absent
) -> pipeline.JoinedSource:
  """With `elixrc` of the partner and `txt_emb` of the image itself."""
  both = tuple(column(of, name, absent.get(name, ())) for name in ("elixrc", "txt_emb"))
  return pipeline.JoinedSource(of, split, both, ("elixrc",))


def test_joined_source_takes_images_from_the_partner_and_text_from_the_row(prepare):
  of = prepare(per_patient=2)
  source, n = joined(of), of.num_rows["train"]
  # Two images a patient, side by side: each is the other's reference.
  assert source.row.tolist() == list(range(n))
  assert source.reference_row.tolist() == [row ^ 1 for row in range(n)]
  patient = of.fields("train")["patient"]
  np.testing.assert_array_equal(patient[source.reference_row], patient)
  for index in range(n):
    record, other = source[index], int(source.reference_row[index])
    assert (record["elixrc"] == other + 1).all()
    assert (record["txt_emb"] == index + 1).all()
    np.testing.assert_array_equal(source.reference_image(index), source[other]["image"])
    assert (source.reference_image(index) != record["image"]).any()
  (batch,) = pipeline.epoch_batches(source, batch_size=n)
  assert batch["row"].tolist() == list(range(n))
  assert batch["elixrc"][:, 0, 0].tolist() == (source.reference_row + 1).tolist()
  assert batch["txt_emb"][:, 0, 0].tolist() == (batch["row"] + 1).tolist()


def test_joined_source_without_partner_columns_refers_to_the_row(prepare):
  of = prepare()
  source = pipeline.JoinedSource(of, "train", (column(of, "elixrc", absent=(2,)),))
  assert source.reference_row.tolist() == source.row.tolist()
  for index in range(len(source)):
    np.testing.assert_array_equal(source.reference_image(index), source[index]["image"])


def test_joined_source_gives_zeros_without_another_image(prepare):
  of = prepare(per_patient=1)
  source, n = joined(of), of.num_rows["train"]
  assert source.reference_row.tolist() == [-1] * n
  batch = source.batch(range(n))
  assert batch["elixrc"].shape == (n, 2, 3)
  assert batch["elixrc"].dtype == np.float16
  assert not batch["elixrc"].any()
  assert batch["txt_emb"][:, 0, 0].tolist() == list(range(1, n + 1))
  for index in range(n):
    assert source[index]["image"].any()
    black = source.reference_image(index)
    assert (black.shape, black.dtype) == ((8, 8, 1), np.uint8)
    assert not black.any()


def test_joined_source_ignores_partners_without_a_value(prepare):
  of = prepare()
  source = joined(of, elixrc=(3,), txt_emb=(4,))
  left = [row for row in range(of.num_rows["train"]) if row not in (3, 4)]
  assert source.row.tolist() == left
  # Rows of the records, not places in what is left of them.
  wanted = [{2: -1, 5: -1}.get(row, row ^ 1) for row in left]
  assert source.reference_row.tolist() == wanted
  for index, (row, other) in enumerate(zip(left, wanted, strict=True)):
    record = source[index]
    assert record["row"] == row
    assert (record["elixrc"] == other + 1).all()
    assert (record["txt_emb"] == row + 1).all()


def test_joined_source_takes_the_next_image_or_the_previous(prepare):
  of = prepare(per_patient=3)
  n = of.num_rows["train"]
  assert joined(of).reference_row.tolist() == [
    row + 1 if row % 3 < 2 else row - 1 for row in range(n)
  ]


def test_joined_source_takes_references_from_the_same_split(prepare, monkeypatch):
  of = prepare()
  fields = records.Records.fields

  # As if all images were of one patient, whom the splits should never have parted.
  def of_one_patient(self, split):
    reported = fields(self, split)
    return reported | {"patient": np.zeros_like(reported["patient"])}

  monkeypatch.setattr(records.Records, "fields", of_one_patient)
  for split, n in of.num_rows.items():
    source, own = joined(of, split), records.RecordSource(of, split)
    assert n > 1
    assert source.reference_row.tolist() == [*range(1, n), n - 2]
    for index, other in enumerate(source.reference_row):
      np.testing.assert_array_equal(
        source.reference_image(index), own[int(other)]["image"]
      )


def test_joined_source_keeps_targets_of_the_row_itself(prepare):
  of = prepare(per_patient=2)
  elixrc = column(of, "elixrc", absent=(2,))
  source = pipeline.JoinedSource(of, "train", (elixrc,), ("elixrc",), (elixrc,))
  # A row without a value has no target, and is nobody's reference either.
  assert source.row.tolist() == [0, 1, *range(3, of.num_rows["train"])]
  for index, row in enumerate(source.row):
    assert (source[index]["target_elixrc"] == row + 1).all()
    assert (source[index]["elixrc"] == source.reference_row[index] + 1).all()
  (batch,) = pipeline.epoch_batches(source, batch_size=len(source))
  assert batch["target_elixrc"].shape == batch["elixrc"].shape
