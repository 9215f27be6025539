"""Data settings whose records are in a folder of the test's choice."""

import dataclasses
import os
import pathlib

from cxr_diffusion_jax.data.settings import DataSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSettings(DataSettings):
  folder: str | os.PathLike = "records"

  @property
  def records_folder(self) -> pathlib.Path:
    return pathlib.Path(self.folder)
