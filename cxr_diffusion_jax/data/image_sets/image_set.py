"""A set of images to judge, with what is known of each.

records(split), a folder of pictures, generated parts -> ImageSet -> features, metrics
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.records import records as records_lib

# Names of stored codes, as the records number them.
SEXES, VIEWS = ("F", "M"), ("PA", "AP")

# Years, from the first to before the second.
AGE_BANDS = ((0, 20), (20, 40), (40, 60), (60, 80), (80, 120))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
  """n images; row i of everything belongs together.

  Attributes:
    name: for tables and errors: "test", "elixr_c", a folder.
    images: [i] -> uint8 [h w 1], all of one size; an array, or read on access.
    ids: [n] str, each once.
    labels: any of: findings [n k] 0 or 1; patient [n]; age [n] in years, nan unknown;
      sex and view [n] int, indices of `SEXES` and `VIEWS`, -1 unknown. Of generated
      images: what was requested.
    vocabulary: names of the k findings.
  """

  name: str
  images: types.Arrays
  ids: np.ndarray
  labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  vocabulary: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.ids)

  def take(self, rows: Sequence[int] | np.ndarray, name: str = "") -> "ImageSet":
    """The images at these rows."""
    rows = np.asarray(rows, np.int64)
    images = self.images
    return ImageSet(
      name=name or self.name,
      images=images[rows] if isinstance(images, np.ndarray) else Subset(images, rows),
      ids=self.ids[rows],
      labels={key: value[rows] for key, value in self.labels.items()},
      vocabulary=self.vocabulary,
    )


class RecordImages(Sequence):
  """The images of a split: [i] -> uint8 [h w 1]."""

  def __init__(self, records: records_lib.Records, split: str):
    self._source = records_lib.RecordSource(records, split)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, row: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._source[row]["image"]


class Chain(Sequence):
  """Several sequences, one after the other."""

  def __init__(self, parts: Sequence[types.Arrays]):
    self._parts = parts
    self._starts = np.cumsum([0, *map(len, parts)])

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, row: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
    if not 0 <= row < len(self):
      raise IndexError(f"row {row} of {len(self)}")
    part = int(np.searchsorted(self._starts, row, side="right")) - 1
    return self._parts[part][row - int(self._starts[part])]


class Subset(Sequence):
  """Some images of a sequence: [i] is images[rows[i]]."""

  def __init__(self, images: types.Arrays, rows: np.ndarray):
    self._images, self._rows = images, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._images[int(self._rows[index])]


def of_records(records: records_lib.Records, split: str) -> ImageSet:
  """The images of a split and their labels.

  Raises:
    errors.InputError: no such split.
  """
  fields = dict(records.fields(split))
  images = RecordImages(records, split)
  return ImageSet(
    name=split,
    images=images,
    ids=fields.pop("id"),
    labels=fields,
    vocabulary=records.vocabulary,
  )


def groups(images: ImageSet) -> dict[str, np.ndarray]:
  """Parts of a set by its labels: name -> [n] bool.

  Names are as in `Measurement.group`: "finding: NAME" (with "No Finding"), "sex: F",
  "age: 40-59", "view: PA". Parts may be empty and overlap; absent labels make none.
  """
  labels = images.labels
  parts: dict[str, np.ndarray] = {}
  if "findings" in labels:
    present = np.asarray(labels["findings"]) > 0.5
    named = zip(images.vocabulary, present.T, strict=True)
    parts |= {f"finding: {name}": column for name, column in named}
    parts[f"finding: {labels_lib.NO_FINDING}"] = np.logical_not(present.any(axis=1))
  for key, names in (("sex", SEXES), ("view", VIEWS)):
    if key in labels:
      parts |= {f"{key}: {x}": labels[key] == i for i, x in enumerate(names)}
  if "age" in labels:
    age = np.asarray(labels["age"], np.float64)
    for low, high in AGE_BANDS:
      parts[f"age: {low}-{high - 1}"] = (age >= low) & (age < high)
  return parts
