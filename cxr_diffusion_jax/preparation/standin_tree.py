"""Stand-in encoders of a tree: trained on its training split, applied to all of it.

records(train) --> stand-in CLIP --> ELIXR files of form A for every image
"""

from collections.abc import Sequence
import pathlib

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data import labels, prompts
from cxr_diffusion_jax.data import records as records_lib
from cxr_diffusion_jax.preparation import standin, standin_elixr


def write(
  records: records_lib.Records,
  *,
  folder: pathlib.Path,
  root: pathlib.Path,
  kinds: Sequence[str],
  settings: standin.TrainSettings,
  progress: types.Progress = types.no_progress,
) -> None:
  """Trains a stand-in CLIP, unless it is there, and writes its embeddings.

  Args:
    records: of the tree; the encoder sees their training split alone.
    folder: of the trained CLIP.
    root: below it the ELIXR files are written.
    kinds: of embeddings.
    settings: of the training.
    progress: told during long work.
  """
  standin.train_standin(
    _Images(records, "train"),
    _prompts(records, "train"),
    records.fields("train")["findings"],
    folder,
    settings=settings,
    progress=progress,
  )
  filled = [split for split, n in records.num_rows.items() if n]
  standin_elixr.write_standin_elixr(
    folder,
    ids=np.concatenate([records.ids(split) for split in filled]),
    images=_Chain([_Images(records, split) for split in filled]),
    prompts=[text for split in filled for text in _prompts(records, split)],
    root=root,
    kinds=kinds,
    progress=progress,
  )


class _Images(Sequence):
  """The images of a split: [i] -> uint8 [h w 1]."""

  def __init__(self, records: records_lib.Records, split: str):
    self._source = records_lib.RecordSource(records, split)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, row: int) -> np.ndarray:
    return self._source[row]["image"]


class _Chain(Sequence):
  """Several sequences, one after the other."""

  def __init__(self, parts: Sequence[Sequence[np.ndarray]]):
    self._parts = parts
    self._starts = np.cumsum([0, *map(len, parts)])

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, row: int) -> np.ndarray:
    if not 0 <= row < len(self):
      raise IndexError(f"row {row} of {len(self)}")
    part = int(np.searchsorted(self._starts, row, side="right")) - 1
    return self._parts[part][row - int(self._starts[part])]


def _prompts(records: records_lib.Records, split: str) -> list[str]:
  """A sentence for each row, in the phrasing that its name chooses."""
  fields = records.fields(split)
  return [
    prompts.prompt(
      labels.names_of(fields["findings"][row]),
      view={0: "PA", 1: "AP"}.get(int(fields["view"][row])),
      age=float(fields["age"][row]),
      sex={0: "F", 1: "M"}.get(int(fields["sex"][row])),
      seed=str(name),
    )
    for row, name in enumerate(fields["id"])
  ]
