"""Which caption of a row a training step reads, and which labels it leaves out.

seed, number of the row in the stream --> numbers in [0, 1) --> caption
  0: the full prompt and all labels
  1 to num - 1: another phrasing, without each attribute at a rate; of the labels,
  findings, view, sex, age and source are unknown at the same rate

A model that has seen partial conditions takes a request that says little.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.columns.column import Column

# The fields of a record that may be left out, and what unknown is there.
UNKNOWN = {"findings": np.nan, "view": -1, "sex": -1, "age": np.nan, "source": -1}

# Random numbers of a row: one for the caption and one a field, as two Philox blocks.
NUM_DRAWS = 8


def check(num: int, drop: float) -> None:
  """Raises InputError for settings out of range."""
  if num < 1:
    raise errors.InputError(f"config.data.captions={num}", "1 or more")
  if not 0 <= drop <= 1:
    raise errors.InputError(f"config.data.caption_drop={drop}", "0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captions:
  """The captions of every row of a split.

  Attributes:
    num: captions of a row, at least 1.
    drop: probability that a caption other than 0 leaves out an attribute.
    columns: captions 1 to num - 1 of text columns; a text column without an entry has
      caption 0 alone.
  """

  num: int = 1
  drop: float = 0.0
  columns: Mapping[str, Sequence[Column]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    check(self.num, self.drop)

  def choose(self, draws: np.ndarray) -> tuple[int, tuple[str, ...]]:
    """A caption, each as likely as any other, and the fields that are unknown.

    `draws` are a row of `draw`.
    """
    caption, *left_out = draws[: 1 + len(UNKNOWN)].tolist()
    caption = int(caption * self.num)
    if not caption:
      return 0, ()
    fields = zip(UNKNOWN, left_out, strict=True)
    return caption, tuple(name for name, value in fields if value < self.drop)


NO_CAPTIONS = Captions()


def draw(seed: int, first: int, num: int) -> np.ndarray:
  """Numbers [num NUM_DRAWS] in [0, 1) of rows `first` and on of an endless stream.

  Those of a row do not depend on where the reading begins.
  """
  bits = np.random.Philox(key=[seed, 0])
  # A block gives four numbers.
  bits.advance(NUM_DRAWS // 4 * first)
  return np.random.Generator(bits).random((num, NUM_DRAWS))


def without(
  record: Mapping[str, np.ndarray], unknown: Collection[str]
) -> dict[str, np.ndarray]:
  """A record whose fields of these names, as far as it has them, are unknown."""
  blank = {
    name: np.full_like(record[name], UNKNOWN[name])
    for name in unknown
    if name in record
  }
  return {**record, **blank}
