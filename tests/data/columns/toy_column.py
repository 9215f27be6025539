"""A toy column that the tests of this folder write and check."""

import itertools

import numpy as np

from cxr_diffusion_jax.data.columns import writer as column_writer

SHAPE = (4, 6)


IDS = {
  "train": np.array([f"{i:08d}_000" for i in range(20)]),
  "validation": np.array([], dtype="<U12"),
  "test": np.array([f"{i:08d}_001" for i in range(20, 27)]),
}


VALUES = {
  one: np.random.default_rng(i).standard_normal(SHAPE).astype(np.float32)
  for i, one in enumerate(itertools.chain(*(IDS[split].tolist() for split in IDS)))
}


def batches_of(ids, size=4, values=None):
  """Batches of these ids, as an iterator."""
  values = values or VALUES
  for start in range(0, len(ids), size):
    part = np.array(ids[start : start + size])
    yield part, np.stack([values[one] for one in part.tolist()])


def write(folder, **changes):
  arguments = {
    "ids": IDS,
    "name": "toy",
    "shape": SHAPE,
    "encoder": "toy encoder",
    "standin": True,
    "fingerprint": "f0",
    "batches": batches_of(list(VALUES)),
  }
  return column_writer.write_column(folder, **{**arguments, **changes})


def check_rows(column, ids=IDS, values=None, dtype=np.float16):
  values = values or VALUES
  for split in ids:
    source = column.source(split)
    assert len(source) == len(ids[split])
    for row, one in enumerate(ids[split].tolist()):
      assert source[row].dtype == dtype
      assert np.array_equal(source[row], values[one].astype(dtype))


def content(column):
  return {
    path.name: path.read_bytes() for path in column.folder.iterdir() if path.is_file()
  }
