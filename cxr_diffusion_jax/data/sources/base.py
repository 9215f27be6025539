"""The interface of data sources: each reads a dataset's files into one table.

root --Source.read_table--> Table (one row an image) --> records

A source is a module of `data/sources/`, named by `config.data.source`. To add a
dataset, add one such module with `VOCABULARY` and `read_table`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
from typing import Protocol, cast

from etils import epath
import numpy as np

from cxr_diffusion_jax import naming
from cxr_diffusion_jax.data import labels

PACKAGE = "cxr_diffusion_jax.data.sources"

# `Table.view` of a lateral X-ray, until views are chosen; it becomes -1 then.
LATERAL = 2

# Views by name, as `config.data.views` chooses them -> `Table.view`.
VIEWS = {"PA": 0, "AP": 1, "lateral": LATERAL, "unknown": -1}

# Google's four expert findings, the columns of `Table.expert`.
EXPERT_FINDINGS = ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
  """The images of a dataset and their metadata; n rows, k findings.

  Attributes:
    vocabulary: names of the k findings, each in one spelling.
    origin: the file that lists the rows, for messages.
    id: [n] str, unique names.
    patient: [n] int32.
    findings: [n k] float32; 1 present, 0 absent, nan unknown.
    image: path or URL of each image; None where the dataset lacks it.
    age: [n] float32, years; nan unknown.
    sex: [n] int8; 0 female, 1 male, -1 unknown.
    view: [n] int8; 0 PA, 1 AP, -1 other or unknown, `LATERAL`.
    boxes: id -> [k 4] float32, (x, y, width, height) as fractions of the image's width
      and height; nan where a finding has no box.
    expert: id -> [4] float32, labels of `EXPERT_FINDINGS`; nan unknown.
    expert_test_ids: images of expert test sets, kept out of training by default.
    official: [n] str, the published split: `train`, `validation`, `test`, or `` for
      rows that it does not name; None where there is none.
    split_note: where the published split is from, for the log.
    num_unlisted: number of images in the dataset without a row.
    source: [n] int8, which of several joined sources a row is of; None for one.
    notes: lines for the log, such as which images are left out.
    report: id -> radiologist's report; None where the dataset has no reports.
  """

  vocabulary: tuple[str, ...]
  origin: str
  id: np.ndarray
  patient: np.ndarray
  findings: np.ndarray
  image: Sequence[str | None]
  age: np.ndarray
  sex: np.ndarray
  view: np.ndarray
  boxes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  expert: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  expert_test_ids: frozenset[str] = frozenset()
  official: np.ndarray | None = None
  split_note: str = ""
  num_unlisted: int = 0
  source: np.ndarray | None = None
  notes: tuple[str, ...] = ()
  report: Mapping[str, str] | None = None

  def __post_init__(self):
    shapes = {
      name: np.shape(getattr(self, name))
      for name in ("id", "patient", "findings", "image", "age", "sex", "view")
    }
    n = len(self.id)
    expected = dict.fromkeys(shapes, (n,)) | {"findings": (n, len(self.vocabulary))}
    if shapes != expected:
      raise ValueError(f"a table of {shapes}, expected {expected}")
    if len(labels.distinct(self.vocabulary)) < len(self.vocabulary):
      raise ValueError(f"a finding in two spellings among {self.vocabulary}")

  def __len__(self) -> int:
    return len(self.id)


class Source(Protocol):
  """A module of `data/sources/`.

  A module may have `read_vocabulary(root)` too: the findings that the dataset at `root`
  states, of tables whose vocabulary is another one than `VOCABULARY`; findings that are
  unknown in all rows are left out of these tables.

  A module may name fields of `DataSettings` in a tuple `OPTIONS`; both functions take
  them as further keyword arguments.

  Attributes:
    VOCABULARY: names of the findings of tables.
  """

  VOCABULARY: tuple[str, ...]

  def read_table(self, root: epath.Path, *, image_size: int) -> Table:
    """Reads all metadata of a dataset; opens no image.

    Args:
      image_size: side of the squares that images become, in pixels; chooses among
        copies of several sizes.

    Raises:
      errors.InputError: the files are not usable.
    """
    ...


def stated(findings: np.ndarray) -> np.ndarray:
  """Which columns of findings [n k] are known in any row: [k] bool."""
  return np.any(np.isfinite(findings), axis=0)


def without_unknown(table: Table) -> Table:
  """The table without the findings that are unknown in every row.

  So a dataset has the labels that it states: plain NIH 14, Google's subset 8.
  """
  kept = stated(table.findings)
  if kept.all():
    return table
  names = zip(table.vocabulary, kept, strict=True)
  return dataclasses.replace(
    table,
    vocabulary=tuple(name for name, known in names if known),
    findings=table.findings[:, kept],
    boxes={name: boxes[kept] for name, boxes in table.boxes.items()},
  )


def patient_numbers(names: Sequence[str]) -> np.ndarray:
  """Numbers patients that are known by any text.

  A number is a hash of the text, so that a patient keeps it when rows are added. No two
  texts share one: of texts with the same hash, the later ones in sorted order take
  another.

  Returns:
    [n] int32, at least 0.
  """
  unique, inverse = np.unique(np.array(names, np.str_), return_inverse=True)
  numbers: dict[int, None] = {}
  for name in unique.tolist():
    attempt = 0
    while (number := hash31(name, attempt)) in numbers:
      attempt += 1
    numbers[number] = None
  return np.array(list(numbers), np.int32)[inverse]


def hash31(name: str, attempt: int) -> int:
  """A hash of 31 bits, another one for each attempt."""
  digest = hashlib.blake2b(f"{attempt}/{name}".encode(), digest_size=4).digest()
  return int.from_bytes(digest, "little") >> 1


def open_source(name: str) -> Source:
  """Imports a source by its name.

  Raises:
    errors.InputError: no such source.
  """
  module = naming.load(
    "config.data.source", PACKAGE, name, without=("base", "labelled")
  )
  return cast(Source, module)
