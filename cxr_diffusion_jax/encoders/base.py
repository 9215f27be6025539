"""What a frozen encoder is: it fills embedding columns, and encodes what a user gives.

  prompts --encode_text--> {column: [n *shape]}     images --encode_images--> the same

`prepare` runs it once over a tree; `sample` runs it on what a user types or shows. The
same object does both, so that both give the same numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

# Columns that are made from texts; all others are made from images.
TEXT_COLUMNS = ("clip_text", "contrastive_txt_emb", "txt_emb")


class Encoder(Protocol):
  """Makes columns from texts and images; frozen dataclasses implement it.

  Attributes:
    description: one line that names the encoder and its weights' fingerprint.
    standin: True when this project trained it, in place of a published one.
    shapes: of one row of every column that it can make.
    whole_images: it wants images as they were taken, of any size; else squares of the
      size that the records have.
  """

  @property
  def description(self) -> str: ...

  @property
  def standin(self) -> bool: ...

  @property
  def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

  @property
  def whole_images(self) -> bool: ...

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    """Returns [n *shape] float32 of each text column asked for, for n >= 1 prompts."""

  def encode_images(
    self, columns: Sequence[str], images: Sequence[np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Returns [n *shape] float32 of each image column, for n >= 1 images [h w] uint8.

    Images may differ in size; where `whole_images`, they may be uint16 too.
    """
