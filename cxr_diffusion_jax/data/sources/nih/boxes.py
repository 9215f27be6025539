"""NIH's finding boxes, and where they lie once an image is cropped or padded.

BBox_List_2017.csv -> id -> [14 4] pixels -> [14 4] fractions of the resized square
"""

import csv
import os
from pathlib import Path

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels

# Boxes are in pixels of the 1024x1024 images that NIH publishes.
NIH_SIZE = 1024


def read_boxes(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a box file: `Image Index,Finding Label,Bbox [x,y,w,h],,,`.

  Where an image has several boxes of one finding, the smallest box around all of them
  is taken.

  Args:
    path: of the CSV.

  Returns:
    Image name without extension -> [14 4] float32, (x, y, width, height) in pixels of
    a 1024x1024 image; nan where a finding has no box.

  Raises:
    InputError: a line that cannot be read.
  """
  boxes: dict[str, np.ndarray] = {}
  with Path(path).open(newline="", encoding="utf-8-sig") as file:
    reader = csv.reader(file)
    next(reader, None)
    for row in reader:
      if not row:
        continue
      try:
        finding = labels.finding_index(row[1])
        x, y, width, height = (float(cell) for cell in row[2:6])
      except (ValueError, IndexError, errors.InputError) as error:
        raise errors.InputError(
          f"{path} line {reader.line_num} is {','.join(row)!r}",
          "an image, a finding, and x, y, width, height",
        ) from error
      of_image = boxes.setdefault(
        Path(row[0].strip()).stem, np.full((len(labels.FINDINGS), 4), np.nan, "f4")
      )
      of_image[finding] = _around(of_image[finding], np.array([x, y, width, height]))
  return boxes


def boxes_in_square(
  boxes: np.ndarray, *, source_size: tuple[int, int], mode: str
) -> np.ndarray:
  """Boxes as fractions of the square that `images.resize` makes of the image.

  The pixels of the boxes are those of a 1024x1024 image where the source is square (a
  resized copy has the same fractions), else those of the source itself.

  Args:
    boxes: [14 4], (x, y, width, height) in pixels; nan where there is none.
    source_size: (width, height) of the image that was resized, in pixels.
    mode: `crop` or `pad`, as it was resized.

  Returns:
    [14 4] float32 within [0, 1]; nan where there is none or nothing of it is left.
  """
  width, height = source_size
  if width == height:
    width = height = NIH_SIZE
  side = min(width, height) if mode == "crop" else max(width, height)
  offset = np.array([(width - side) / 2, (height - side) / 2])
  low = np.clip((boxes[:, :2] - offset) / side, 0, 1)
  high = np.clip((boxes[:, :2] + boxes[:, 2:] - offset) / side, 0, 1)
  placed = np.concatenate([low, high - low], axis=1).astype(np.float32)
  placed[~(placed[:, 2:] > 0).all(axis=1)] = np.nan
  return placed


def _around(box: np.ndarray, other: np.ndarray) -> np.ndarray:
  if np.isnan(box).any():
    return other
  low = np.minimum(box[:2], other[:2])
  high = np.maximum(box[:2] + box[2:], other[:2] + other[2:])
  return np.concatenate([low, high - low])
