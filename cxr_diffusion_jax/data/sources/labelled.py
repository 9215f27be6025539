"""What sources share: how cells of their tables are read.

"Female" -> 0    "LATERAL" -> 2    "-1.0" -> nan    boxes of readers -> one a finding
"""

from collections.abc import Iterable, Sequence
import re

import numpy as np

from cxr_diffusion_jax.data import dicom
from cxr_diffusion_jax.data.sources import base

# Files that sources take as images.
IMAGES = (".png", ".jpg", ".jpeg", *dicom.EXTENSIONS)

# CheXpert's labels: an uncertain mention is as unknown as none.
LABELS = {
  **dict.fromkeys(("1", "1.0"), 1.0),
  **dict.fromkeys(("0", "0.0"), 0.0),
  **dict.fromkeys(("-1", "-1.0", "", "nan"), float("nan")),
}

_LATERAL = ("L", "LL", "LATERAL", "LAT", "XTABLE LATERAL", "LLAT", "RL")


def parse_label(text: str) -> float:
  """1 present, 0 absent, nan for uncertain (-1) and blank cells.

  Raises:
    ValueError: another value.
  """
  if text.casefold() not in LABELS:
    raise ValueError("1, 0, -1 or nothing")
  return LABELS[text.casefold()]


def parse_sex(text: str) -> int:
  """0 for `F` or `female`, 1 for `M` or `male`, -1 for anything else."""
  return {"F": 0, "M": 1}.get(text.upper()[:1], -1)


def parse_view(text: str) -> int:
  """0 PA, 1 AP, `base.LATERAL`, -1 for anything else."""
  text = text.strip().upper()
  if text in _LATERAL:
    return base.LATERAL
  # Such as `AP AXIAL`, `AP_horizontal`, `PA LLD`.
  match = re.match(r"(PA|AP)\b", text.replace("_", " "))
  return -1 if match is None else ("PA", "AP").index(match[1])


def integer(text: str) -> int | None:
  """An integer of 32 bits; None for another text."""
  if re.fullmatch(r"\d{1,10}(\.0)?", text) and (number := int(float(text))) < 2**31:
    return number
  return None


def boxes_of(rows: Iterable[tuple[int, np.ndarray]], num_findings: int) -> np.ndarray:
  """The smallest boxes around those of each finding: [k 4] float32, nan for none.

  Args:
    rows: (column of a finding, its box (x, y, width, height)).
  """
  boxes = np.full((num_findings, 4), np.nan, np.float32)
  for column, box in rows:
    both = np.stack([boxes[column], box])
    low = np.nanmin(both[:, :2], axis=0)
    high = np.nanmax(both[:, :2] + both[:, 2:], axis=0)
    boxes[column] = np.concatenate([low, high - low])
  return boxes


def by_id(ids: Sequence[str] | np.ndarray, texts: Iterable[str]) -> dict[str, str]:
  """Image -> its text, without those whose text is empty."""
  return {str(name): text for name, text in zip(ids, texts, strict=True) if text}
