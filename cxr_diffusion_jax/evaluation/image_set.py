"""A set of images that is judged, with what is known of each.

records(split), a folder of pictures, generated parts -> ImageSet -> features, metrics
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.encoders.standin import tree as standin_tree

# Of a stored code: as the records number them.
SEXES, VIEWS = ("F", "M"), ("PA", "AP")

# Years, from the first to before the second.
AGE_BANDS = ((0, 20), (20, 40), (40, 60), (60, 80), (80, 120))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
  """n images; row i of everything belongs together.

  Attributes:
    name: for people: "test", "elixr_c", a folder.
    images: [i] -> uint8 [h w 1], all of one size; an array, or read when asked for.
    ids: [n] str, each once.
    labels: what is known of them, any of: findings [n k] 0 or 1; patient [n]; age [n]
      in years, nan unknown; sex and view [n] int, indices of `SEXES` and `VIEWS`, -1
      unknown. Of generated images: what was asked for.
    vocabulary: names of the k findings.
  """

  name: str
  images: Sequence[np.ndarray]
  ids: np.ndarray
  labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  vocabulary: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.ids)

  def take(self, rows: Sequence[int] | np.ndarray, name: str = "") -> "ImageSet":
    """The images at these places, read when asked for as before."""
    rows = np.asarray(rows, np.int64)
    images = self.images
    taken = images[rows] if isinstance(images, np.ndarray) else Taken(images, rows)
    return ImageSet(
      name=name or self.name,
      images=taken,
      ids=self.ids[rows],
      labels={key: value[rows] for key, value in self.labels.items()},
      vocabulary=self.vocabulary,
    )


class Taken(Sequence):
  """Some images of a sequence: [i] is images[rows[i]]."""

  def __init__(self, images: Sequence[np.ndarray], rows: np.ndarray):
    self._images, self._rows = images, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> np.ndarray:
    return self._images[int(self._rows[index])]


def of_records(records: records_lib.Records, split: str) -> ImageSet:
  """The images of a split and their labels.

  Raises:
    errors.InputError: no such split.
  """
  fields = dict(records.fields(split))
  images = standin_tree.Images(records, split)
  return ImageSet(
    name=split,
    images=images,
    ids=fields.pop("id"),
    labels=fields,
    vocabulary=records.vocabulary,
  )


def groups(images: ImageSet) -> dict[str, np.ndarray]:
  """Parts of a set by what is known: name -> [n] bool.

  Names are as in `Measurement.group`: "finding: NAME" (with "No Finding"), "sex: F",
  "age: 40-59", "view: PA"; parts may be empty and overlap. A label that is not there
  makes no parts.
  """
  labels = images.labels
  parts: dict[str, np.ndarray] = {}
  if "findings" in labels:
    present = np.asarray(labels["findings"]) > 0.5
    named = zip(images.vocabulary, present.T, strict=True)
    parts |= {f"finding: {name}": column for name, column in named}
    parts[f"finding: {labels_lib.NO_FINDING}"] = ~present.any(axis=1)
  for key, names in (("sex", SEXES), ("view", VIEWS)):
    if key in labels:
      parts |= {f"{key}: {x}": labels[key] == i for i, x in enumerate(names)}
  if "age" in labels:
    age = np.asarray(labels["age"], np.float64)
    for low, high in AGE_BANDS:
      parts[f"age: {low}-{high - 1}"] = (age >= low) & (age < high)
  return parts
