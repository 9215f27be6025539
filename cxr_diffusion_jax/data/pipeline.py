"""Joins records with columns and serves them as batches, through Grain.

rows -> shuffle -> repeat (-> balance) -> batches of B = G / n rows (-> draw captions)
  -> [step n + p :: n] -> load

Batch k holds the rows k B to (k + 1) B of one endless shuffled stream, and process p of
n takes the batches step n + p: put together in the order of processes, the global batch
of a step is the same for any n, row for row, and any step can be the first. No state of
an iterator is ever saved. Images are never flipped: that would move the heart.
"""

from collections.abc import Iterator, Sequence
import copy
import functools
import operator

import numpy as np

from cxr_diffusion_jax.data import balance as balance_lib
from cxr_diffusion_jax.data import captions as captions_lib
from cxr_diffusion_jax.data import pairing, read_ahead
from cxr_diffusion_jax.data.columns.column import Column, ColumnSource
from cxr_diffusion_jax.data.records import records as records_lib


class JoinedSource:
  """Records of one split with the values of columns, under the columns' names.

  `source[i]` is a dict as of `records.RecordSource`, its `row` the index in the split's
  records. Rows that a column lacks are left out. May be pickled; read by many threads.

  Args:
    columns: in the row order of `records`.
    of_partner: columns of another image, see `reference`.
    targets: columns of the row's own image, always, under `target_NAME`.
    images: False to omit the images, when a column replaces them.
    reference: the image of `of_partner`: "same_patient" (`pairing.other_image`), zeros
      if there is none; or "same_findings" (`pairing.other_patient`), rows without one
      are left out.
    captions: what `train_batches` draws of a row; all else reads caption 0.

  Raises:
    ValueError: a column of another length, or named as a field of the records.

  Attributes:
    row: [len] int32, index in the split's records of every row.
    reference_row: [len] int32, the same of the image that `of_partner` columns are of,
      -1 for none; without such columns it is `row`.
    num_left_out: rows that have every column and no image of the same findings.
  """

  def __init__(
    self,
    records: records_lib.Records,
    split: str,
    columns: tuple[Column, ...] = (),
    of_partner: Sequence[str] = (),
    targets: tuple[Column, ...] = (),
    images: bool = True,
    reference: str = "same_patient",
    captions: captions_lib.Captions = captions_lib.NO_CAPTIONS,
  ):
    self.split = split
    self._images = images
    self._records = records_lib.RecordSource(records, split)
    fields = records.fields(split)
    self._patient, self._findings = fields["patient"], fields["findings"]
    self._columns = {}
    present = np.ones(len(self._records), bool)
    named = [(column.description.name, column) for column in columns]
    named += [(f"target_{column.description.name}", column) for column in targets]
    for name, column in named:
      has_value = np.asarray(column.present(split))
      if has_value.shape != present.shape:
        raise ValueError(
          f"column {name} has {len(has_value)} rows, {split} has {len(present)}"
        )
      if name in records_lib.FIELDS or name in self._columns:
        raise ValueError(f"two fields are named {name}")
      present &= has_value
      self._columns[name] = column.source(split)
    self.captions = captions
    self._more_captions = {
      name: [column.source(split) for column in more]
      for name, more in captions.columns.items()
    }
    self.row = np.flatnonzero(present).astype(np.int32)
    self.reference_row = self.row
    self._of_partner = frozenset(of_partner)
    self.num_left_out = 0
    if of_partner:
      # Among the rows that are there: a partner without a value is none.
      patient = self._patient[self.row]
      if reference == "same_findings":
        shared = [fields[name][self.row] for name in ("findings", "sex", "view")]
        partner = pairing.other_patient(np.column_stack(shared), patient)
        self.num_left_out = int((partner < 0).sum())
        self.row, partner = self.row[partner >= 0], self.row[partner[partner >= 0]]
        self.reference_row = partner
      else:
        partner = pairing.other_image(patient)
        self.reference_row = np.where(partner < 0, -1, self.row[partner])

  def __len__(self) -> int:
    return len(self.row)

  @property
  def findings(self) -> np.ndarray:
    """[len k] of the rows' own images; nan unknown."""
    return self._findings[self.row]

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return self._read(operator.index(index), 0)

  def drawn(self, index: int, draws: np.ndarray) -> dict[str, np.ndarray]:
    """A row with the caption that `Captions.choose` takes by its draws."""
    caption, unknown = self.captions.choose(draws)
    record = self._read(operator.index(index), caption)
    return captions_lib.without(record, unknown)

  def _read(self, index: int, caption: int) -> dict[str, np.ndarray]:
    row = int(self.row[index])
    values = {}
    for name, column in self._columns.items():
      if caption and name in self._more_captions:
        column = self._more_captions[name][caption - 1]
      of_partner = name in self._of_partner
      values[name] = self._value(
        column, int(self.reference_row[index]) if of_partner else row
      )
    record = self._records[row]
    if not self._images:
      del record["image"]
    return record | values

  def one_per_patient(self) -> "JoinedSource":
    """The first row of each patient, in the same order."""
    return self.take(np.sort(np.unique(self._patient[self.row], return_index=True)[1]))

  def take(self, indices: np.ndarray) -> "JoinedSource":
    """The rows at these indices."""
    taken = copy.copy(self)
    taken.row, taken.reference_row = self.row[indices], self.reference_row[indices]
    return taken

  def reference_image(self, index: int) -> np.ndarray:
    """The image uint8 [h w 1] that a row's reference is of; black for none."""
    row = int(self.reference_row[index])
    image = self._records[max(row, 0)]["image"]
    return image if row >= 0 else np.zeros_like(image)

  def _value(self, column: ColumnSource, row: int) -> np.ndarray:
    return column[row] if row >= 0 else np.zeros_like(column[int(self.row[0])])

  def batch(
    self, indices: Sequence[int], draws: np.ndarray | None = None
  ) -> dict[str, np.ndarray]:
    """The fields of b rows with a leading axis; `image` is float32 in [-1, 1].

    With draws, one row for each index, the rows are as of `drawn`.
    """
    if draws is None:
      rows = [self[index] for index in indices]
    else:
      pairs = zip(indices, draws, strict=True)
      rows = [self.drawn(index, of_row) for index, of_row in pairs]
    batch = {
      name: np.stack([row[name] for row in rows]) for name in rows[0] if name != "image"
    }
    if not self._images:
      return batch
    image = np.empty((len(rows), *rows[0]["image"].shape), np.float32)
    for number, row in enumerate(rows):
      # Image by image, so that each stays in the processor's cache.
      image[number] = row["image"]
      image[number] *= np.float32(1 / 127.5)
      image[number] -= 1
    return batch | {"image": image}


def train_batches(
  source: JoinedSource,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  balance: float = 0.0,
  num_workers: int = 0,
  num_threads: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches endlessly: every row once per epoch, in a new order each epoch.

  Args:
    seed: of the order, 0 to 2^32 - 1.
    balance: the cap of `balance.weights`, by which rows are drawn; 0 for each once.
    num_workers: worker processes; 0 reads in threads of this process.
    num_threads: threads that read batches ahead, in this process or in each worker.

  Returns:
    An iterator over local batches as of `JoinedSource.batch`, `batch_size /
    process_count` rows each.

  Raises:
    ValueError: no rows, or a batch that does not divide by the processes.
  """
  import grain

  local_size = _local_size(source, batch_size, process_index, process_count)
  rows = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
  if balance:
    rows = rows.map_with_index(balance_lib.Sampler.make(source.findings, balance, seed))
  batches = (
    # Drop the remainder: Grain could not count the batches of an endless stream.
    rows.batch(local_size, drop_remainder=True)
    .map_with_index(functools.partial(_with_draws, source.captions, seed))
    .slice(slice(start_step * process_count + process_index, None, process_count))
    .map(functools.partial(_load, source))
  )
  return read_ahead.read_ahead(batches, num_workers, num_threads)


def epoch_batches(
  source: JoinedSource,
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields every row once, in order; the last batch is padded with its last row.

  Arguments and errors are those of `train_batches`.

  Returns:
    An iterator over local batches with a field `valid` [b] bool, False where a row only
    fills up. All processes get the same number of batches.
  """
  import grain

  local_size = _local_size(source, batch_size, process_index, process_count)
  num_batches = -(-len(source) // batch_size)

  def load(step: int) -> dict[str, np.ndarray]:
    first = step * batch_size + process_index * local_size
    indices = np.arange(first, first + local_size)
    valid = indices < len(source)
    return source.batch(np.minimum(indices, len(source) - 1).tolist()) | {
      "valid": valid
    }

  batches = grain.MapDataset.range(num_batches).map(load)
  return read_ahead.read_ahead(batches, 0, num_threads)


def _with_draws(
  captions: captions_lib.Captions, seed: int, number: int, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
  """The indices of a batch, and the draws of its rows if there is a choice."""
  b = len(indices)
  return indices, (captions_lib.draw(seed, number * b, b) if captions.num > 1 else None)


def _load(
  source: JoinedSource, batch: tuple[np.ndarray, np.ndarray | None]
) -> dict[str, np.ndarray]:
  indices, draws = batch
  return source.batch(indices.tolist(), draws)


def _local_size(
  source: JoinedSource, batch_size: int, process_index: int, process_count: int
) -> int:
  if len(source) == 0:
    raise ValueError("batches of no rows")
  if not 0 <= process_index < process_count:
    raise ValueError(f"process {process_index} of {process_count}")
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(f"batch_size {batch_size} by {process_count} processes")
  return batch_size // process_count
