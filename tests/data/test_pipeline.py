"""`data/pipeline.py`: equal batches for any number of processes, from any step on."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax.data import balance, captions, pipeline
from cxr_diffusion_jax.data.columns import writer as column_writer
from cxr_diffusion_jax.data.records import records
from tests.data.record_settings import RecordSettings

STEPS = 7


@pytest.fixture
def prepared(make_tree, tmp_path) -> records.Records:
  small = make_tree()
  return records.prepare_records(
    RecordSettings(root=small.root, folder=tmp_path / "records", image_size=8)
  )


@pytest.fixture
def source(prepared) -> pipeline.JoinedSource:
  return pipeline.JoinedSource(prepared, "train")


@dataclasses.dataclass(frozen=True)
class FakeColumn:
  """A column of one split: row i is filled with i; some rows have no value."""

  name: str
  num_rows: int
  absent: tuple[int, ...] = ()
  offset: int = 0

  @property
  def description(self) -> SimpleNamespace:
    return SimpleNamespace(name=self.name)

  def source(self, split: str) -> list[np.ndarray]:
    del split
    rows = np.arange(self.num_rows) + self.offset
    return [np.full((2, 3), row, np.float16) for row in rows]

  def present(self, split: str) -> np.ndarray:
    del split
    return ~np.isin(np.arange(self.num_rows), self.absent)


def take(batches, count: int) -> list[dict[str, np.ndarray]]:
  return list(itertools.islice(batches, count))


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_equal_batches(some, other):
  assert sorted(some) == sorted(other)
  for name in some:
    np.testing.assert_array_equal(some[name], other[name], err_msg=name)


def test_one_per_patient_keeps_the_first_row_of_each(prepared, source):
  patients = prepared.fields("train")["patient"]
  rows = source.one_per_patient().row
  assert len(rows) == len(set(patients)) < len(source)
  assert [patients[row] for row in rows] == list(dict.fromkeys(patients))
  assert all(row == np.flatnonzero(patients == patients[row])[0] for row in rows)


def test_batches_are_ready_for_a_device(source):
  (batch,) = take(pipeline.train_batches(source, batch_size=4, seed=0), 1)
  assert batch["image"].shape == (4, 8, 8, 1)
  assert batch["image"].dtype == np.float32
  for row, image, findings in zip(
    batch["row"], batch["image"], batch["findings"], strict=True
  ):
    record = source[int(row)]
    np.testing.assert_allclose(image, record["image"] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(findings, record["findings"])
  shapes = {name: value.shape[1:] for name, value in batch.items()}
  assert shapes["boxes"] == (14, 4)
  assert shapes["age"] == ()
  assert sorted(batch) == sorted(records.FIELDS)


def test_batch_maps_black_to_minus_one_and_white_to_one(make_tree, tmp_path):
  small = make_tree()
  for path in sorted(small.root.glob("original/*/images/*.png")):
    grey = 255 * (int(path.stem[-1]) % 2)
    Image.fromarray(np.full((24, 24), grey, np.uint8)).save(path)
  settings = RecordSettings(root=small.root, folder=tmp_path / "records", image_size=8)
  source = pipeline.JoinedSource(records.prepare_records(settings), "train")
  image = source.batch([0, 1])["image"]
  assert (image[0] == -1).all()
  assert (image[1] == 1).all()


def test_train_batches_shuffle_every_epoch(source):
  n = len(source)
  batches = take(pipeline.train_batches(source, batch_size=1, seed=3), 3 * n)
  rows = np.array([batch["row"][0] for batch in batches]).reshape(3, n)
  for epoch in rows:
    assert sorted(epoch) == list(range(n))
  assert not np.array_equal(rows[0], rows[1])
  assert not np.array_equal(rows[1], rows[2])
  other = take(pipeline.train_batches(source, batch_size=1, seed=4), n)
  assert [batch["row"][0] for batch in other] != rows[0].tolist()


@pytest.fixture
def captioned(prepared) -> pipeline.JoinedSource:
  """The value of row i in caption c of `txt_emb` is i + 100 c."""
  n = prepared.num_rows["train"]
  text, *more = (FakeColumn("txt_emb", n, offset=100 * c) for c in range(3))
  image = FakeColumn("elixrc", n)
  some = captions.Captions(num=3, drop=0.5, columns={"txt_emb": more})
  return pipeline.JoinedSource(prepared, "train", (text, image), captions=some)


def test_train_batches_draw_captions_and_leave_out_labels(captioned, source):
  batches = take(pipeline.train_batches(captioned, batch_size=4, seed=3), 60)
  rows = np.concatenate([batch["row"] for batch in batches])
  plain = take(pipeline.train_batches(source, batch_size=4, seed=3), 60)
  # The order of rows does not depend on captions.
  np.testing.assert_array_equal(rows, np.concatenate([one["row"] for one in plain]))
  values = np.concatenate([batch["txt_emb"][:, 0, 0] for batch in batches])
  drawn, of_row = np.divmod(values.astype(int), 100)
  np.testing.assert_array_equal(of_row, rows)
  assert np.bincount(drawn).min() > 50
  # A row gets other captions in other epochs.
  assert all(len(set(drawn[rows == row])) == 3 for row in set(rows))
  images = np.concatenate([batch["elixrc"][:, 0, 0] for batch in batches])
  np.testing.assert_array_equal(images, rows)
  known = np.concatenate([batch["view"] for batch in batches]) >= 0
  assert known[drawn == 0].all()
  assert 0.3 < known[drawn > 0].mean() < 0.7
  for name in ("findings", "age", "sex", "view"):
    assert batches[0][name].dtype == plain[0][name].dtype


def test_epoch_batches_read_caption_0(captioned):
  (batch,) = pipeline.epoch_batches(captioned, batch_size=len(captioned))
  np.testing.assert_array_equal(batch["txt_emb"][:, 0, 0], batch["row"])
  assert (batch["view"] >= 0).all()


def test_train_batches_with_captions_start_anywhere_on_any_processes(captioned):
  whole = take(pipeline.train_batches(captioned, batch_size=6, seed=9), 6)
  parts = [
    take(
      pipeline.train_batches(
        captioned,
        batch_size=6,
        seed=9,
        start_step=2,
        process_index=index,
        process_count=2,
      ),
      4,
    )
    for index in range(2)
  ]
  for pair, expected in zip(zip(*parts, strict=True), whole[2:], strict=True):
    assert_equal_batches(joined(list(pair)), expected)


def test_balanced_batches_start_anywhere_on_any_processes(captioned, source):
  options = {"batch_size": 6, "seed": 9, "balance": 3.0}
  whole = take(pipeline.train_batches(captioned, **options), 40)
  parts = [
    take(
      pipeline.train_batches(
        captioned, **options, start_step=2, process_index=index, process_count=2
      ),
      6,
    )
    for index in range(2)
  ]
  for pair, expected in zip(zip(*parts, strict=True), whole[2:8], strict=True):
    assert_equal_batches(joined(list(pair)), expected)
  rows = np.concatenate([batch["row"] for batch in whole])
  weights = balance.weights(captioned.findings, 3.0)
  num = len(rows) // len(source) * len(source)
  counts = np.bincount(rows[:num], minlength=len(source)) / num
  np.testing.assert_allclose(counts, weights / weights.sum(), atol=0.02)
  assert weights.max() > 1
  # A cap of one changes nothing.
  plain, same = (
    take(pipeline.train_batches(source, batch_size=4, seed=3, balance=cap), STEPS)
    for cap in (0.0, 1.0)
  )
  for batch, expected in zip(same, plain, strict=True):
    assert_equal_batches(batch, expected)


@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_train_batches_are_equal_for_any_number_of_processes(
  source, process_count, num_threads
):
  alone = take(pipeline.train_batches(source, batch_size=8, seed=1), STEPS)
  shared = [
    take(
      pipeline.train_batches(
        source,
        batch_size=8,
        seed=1,
        process_index=index,
        process_count=process_count,
        num_threads=num_threads,
      ),
      STEPS,
    )
    for index in range(process_count)
  ]
  assert all(len(part["row"]) == 8 // process_count for part in shared[0])
  for step, expected in enumerate(alone):
    assert_equal_batches(joined([of_one[step] for of_one in shared]), expected)


@pytest.mark.parametrize("start_step", range(STEPS))
def test_train_batches_start_at_any_step(source, start_step):
  def batches(start: int, count: int) -> list[dict[str, np.ndarray]]:
    parts = [
      take(
        pipeline.train_batches(
          source,
          batch_size=6,
          seed=9,
          start_step=start,
          process_index=index,
          process_count=2,
        ),
        count,
      )
      for index in range(2)
    ]
    return [joined(list(pair)) for pair in zip(*parts, strict=True)]

  # 14 training rows and batches of 6: some reach over the end of an epoch.
  whole = batches(0, STEPS + 2)[start_step:]
  for resumed, expected in zip(batches(start_step, len(whole)), whole, strict=True):
    assert_equal_batches(resumed, expected)


@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 32])
def test_epoch_batches_hold_every_row_once(source, process_count, batch_size):
  parts = [
    list(
      pipeline.epoch_batches(
        source,
        batch_size=batch_size,
        process_index=index,
        process_count=process_count,
      )
    )
    for index in range(process_count)
  ]
  batches = [joined(list(of_step)) for of_step in zip(*parts, strict=True)]
  assert len(batches) == -(-len(source) // batch_size)
  assert all(len(batch["row"]) == batch_size for batch in batches)
  rows = np.concatenate([batch["row"] for batch in batches])
  valid = np.concatenate([batch["valid"] for batch in batches])
  assert valid.dtype == bool
  assert rows[valid].tolist() == list(range(len(source)))
  assert set(rows[~valid].tolist()) <= {len(source) - 1}
  assert valid[: len(source)].all()


def test_joined_source_joins_by_row_and_skips_missing_values(prepared):
  n = prepared.num_rows["train"]
  some = FakeColumn("elixrc", n, absent=(1, 4))
  other = FakeColumn("img_emb", n, absent=(4, 6))
  source = pipeline.JoinedSource(prepared, "train", (some, other))
  kept = [row for row in range(n) if row not in (1, 4, 6)]
  assert source.row.tolist() == kept
  assert len(source) == len(kept)
  for index, row in enumerate(kept):
    record = source[index]
    assert record["row"] == row
    assert (record["elixrc"] == row).all()
  (batch,) = pipeline.epoch_batches(source, batch_size=len(kept))
  assert batch["img_emb"].shape == (len(kept), 2, 3)
  assert batch["img_emb"].dtype == np.float16
  assert batch["img_emb"][:, 0, 0].tolist() == batch["row"].tolist() == kept
  with pytest.raises(IndexError):
    source[len(kept)]


def test_joined_source_refuses_columns_that_do_not_fit(prepared):
  n = prepared.num_rows["train"]
  with pytest.raises(ValueError, match=f"elixrc has {n + 1} rows, train has {n}"):
    pipeline.JoinedSource(prepared, "train", (FakeColumn("elixrc", n + 1),))
  with pytest.raises(ValueError, match="two fields are named image"):
    pipeline.JoinedSource(prepared, "train", (FakeColumn("image", n),))
  twice = (FakeColumn("elixrc", n), FakeColumn("elixrc", n))
  with pytest.raises(ValueError, match="two fields are named elixrc"):
    pipeline.JoinedSource(prepared, "train", twice)


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({"batch_size": 6, "process_count": 4}, "batch_size 6 by 4 processes"),
    ({"batch_size": 0}, "batch_size 0"),
    ({"batch_size": 4, "process_index": 2, "process_count": 2}, "process 2 of 2"),
  ],
)
def test_batches_of_impossible_sizes_are_refused(source, sizes, message):
  with pytest.raises(ValueError, match=message):
    pipeline.train_batches(source, seed=0, **sizes)
  with pytest.raises(ValueError, match=message):
    pipeline.epoch_batches(source, **sizes)


def test_joined_source_refuses_no_rows(prepared):
  n = prepared.num_rows["train"]
  nothing = FakeColumn("elixrc", n, absent=tuple(range(n)))
  source = pipeline.JoinedSource(prepared, "train", (nothing,))
  with pytest.raises(ValueError, match="batches of no rows"):
    pipeline.train_batches(source, batch_size=1, seed=0)


def test_train_batches_are_equal_with_worker_processes(prepared):
  ids = {split: prepared.ids(split) for split in prepared.num_rows}
  every = np.concatenate(list(ids.values()))
  column = column_writer.write_column(
    prepared.folder,
    ids=ids,
    name="elixrc",
    shape=(3,),
    encoder="none",
    standin=True,
    fingerprint="f",
    batches=iter([(every, np.arange(3 * len(every)).reshape(-1, 3))]),
  )
  source = pipeline.JoinedSource(prepared, "train", (column,))
  alone, shared = (
    take(
      pipeline.train_batches(
        source, batch_size=4, seed=5, start_step=2, num_workers=num_workers
      ),
      STEPS,
    )
    for num_workers in (0, 2)
  )
  for batch, expected in zip(shared, alone, strict=True):
    assert_equal_batches(batch, expected)
    np.testing.assert_array_equal(batch["elixrc"][:, 0], 3 * batch["row"])
