"""A set of images to judge, with their known labels.

records(split), a folder of pictures, generated parts -> ImageSet -> features, metrics
"""

from collections.abc import Callable, Mapping, Sequence
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
    images: [i] -> uint8 [h w 1], all of one size; an array, or read on access.
    ids: [n] str, each once.
    labels: any of: findings [n k] 0 or 1; patient [n]; age [n] in years, nan unknown;
      sex and view [n] int, indices of `SEXES` and `VIEWS`, -1 unknown. Of generated
      images: what was requested.
  """

  name: str
  images: types.Arrays
  ids: np.ndarray
  labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  vocabulary: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.ids)

  @property
  def patients(self) -> np.ndarray:
    """Names [n] of patients; each image is one where they are not known."""
    if "patient" in self.labels:
      return np.asarray(self.labels["patient"]).astype(str)
    return np.array([f"{self.name}, image {name}" for name in self.ids])

  @property
  def num_patients(self) -> int:
    """How many patients; 0 where they are not known."""
    return len(np.unique(self.patients)) if "patient" in self.labels else 0

  def take(self, rows: Sequence[int] | np.ndarray, name: str = "") -> "ImageSet":
    """The images at these rows."""
    rows = np.asarray(rows, np.int64)
    images = self.images
    return ImageSet(
      name=name or self.name,
      images=images[rows] if isinstance(images, np.ndarray) else subset(images, rows),
      ids=self.ids[rows],
      labels={key: value[rows] for key, value in self.labels.items()},
      vocabulary=self.vocabulary,
    )


class OnAccess(Sequence):
  """Images that are read on each access: [i] -> uint8 [h w 1], without a cache.

  Metrics read a set in order, which a small cache would not help.
  """

  def __init__(self, num: int, read_fn: Callable[[int], np.ndarray]):
    self._num, self._read_fn = num, read_fn

  def __len__(self) -> int:
    return self._num

  def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._read_fn(range(self._num)[index])


def record_images(records: records_lib.Records, split: str) -> OnAccess:
  """The images of a split."""
  source = records_lib.RecordSource(records, split)
  return OnAccess(len(source), lambda row: source[row]["image"])


def subset(images: types.Arrays, rows: np.ndarray) -> OnAccess:
  """Some images of a sequence: [i] is images[rows[i]]."""
  return OnAccess(len(rows), lambda i: images[int(rows[i])])


def chain(parts: Sequence[types.Arrays]) -> OnAccess:
  """Several sequences, one after the other."""
  starts = np.cumsum([0, *map(len, parts)])

  def read(row: int) -> np.ndarray:
    part = int(np.searchsorted(starts, row, side="right")) - 1
    return parts[part][row - int(starts[part])]

  return OnAccess(int(starts[-1]), read)


def of_records(records: records_lib.Records, split: str) -> ImageSet:
  """The images of a split and their labels."""
  fields = dict(records.fields(split))
  return ImageSet(
    name=split,
    images=record_images(records, split),
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
