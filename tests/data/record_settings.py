"""Settings of records in a folder of the test's choice, and the rows of records."""

import dataclasses
import os
import pathlib

import numpy as np

from cxr_diffusion_jax.data.records import records
from cxr_diffusion_jax.data.settings import DataSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSettings(DataSettings):
  folder: str | os.PathLike = "records"

  @property
  def records_folder(self) -> pathlib.Path:
    return pathlib.Path(self.folder)


def rows_of(prepared: records.Records) -> dict[str, list[dict]]:
  sources = {split: records.RecordSource(prepared, split) for split in prepared.shards}
  return {split: list(source) for split, source in sources.items()}


def assert_equal_rows(some: dict[str, list[dict]], other: dict[str, list[dict]]):
  assert {k: len(v) for k, v in some.items()} == {k: len(v) for k, v in other.items()}
  for split in some:
    for row, expected in zip(some[split], other[split], strict=True):
      for name in expected:
        np.testing.assert_array_equal(row[name], expected[name], err_msg=name)
