"""What a comparison of conditioning paths says: tables, figures, one picture.

paths (images of the same conditions) + what a judge saw in them -> Markdown, JSON, grid
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image

from cxr_diffusion_jax import pictures
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.evaluation import adherence, reconstruction
from cxr_diffusion_jax.training import compatibility

# What may differ between runs that are compared: the condition, where and how they ran.
# How they are sampled may not, although one run may change it at any time.
FREE = (
  *(key for key in compatibility.FREE_KEYS if key not in ("codec.folder", "sample.")),
  "conditioning.",
  "sample.num_images",
)

# Columns of the picture.
SHOWN = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
  """One run in the comparison.

  Attributes:
    name: of its folder.
    images: uint8 [n h w 1], image i generated for test image i.
    swapped: uint8 [m h w 1], image i of the noise of image i and the next condition.
    losses: last validation loss, with the condition and without; nan for none.
    kind: of its data, in words.
    step: of its checkpoint.
    floor: what its codec alone loses of the same images; None where not measured.
  """

  name: str
  images: np.ndarray
  swapped: np.ndarray
  losses: tuple[float, float]
  kind: str
  step: int
  floor: reconstruction.Reconstruction | None = None


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
  """Keys of the configs that differ although they should not."""
  flats = [compatibility.flatten(config) for config in configs]
  keys = sorted(set().union(*flats))
  return [
    key
    for key in keys
    if not key.startswith(FREE) and len({repr(flat.get(key)) for flat in flats}) > 1
  ]


def effects(path: Path) -> tuple[float, float]:
  """How much the condition and the noise change an image, in grey levels of 255.

  Returns:
    Mean absolute difference of images with the same noise and different conditions,
    and of images with different noise and conditions.
  """
  images = path.images.astype(np.float32)
  m = len(path.swapped)
  condition = np.abs(images[:m] - path.swapped).mean()
  both = np.abs(images[:m] - np.roll(images, -1, axis=0)[:m]).mean()
  return float(condition), float(both)


def text(
  paths: Sequence[Path],
  measured: Mapping[str, adherence.Adherence],
  split: str,
  configs: Sequence[Mapping[str, Any]],
) -> str:
  """Returns the tables in Markdown, and what makes the comparison unequal."""
  n = len(paths[0].images)
  steps = sorted({path.step for path in paths})
  lines = [
    f"{n} {split} images, one generated for each from its condition, the same noise in"
    f" every path; runs of {', '.join(map(str, steps))} steps. Data:"
    f" {paths[0].kind.split(',')[0]}.",
    "",
    adherence.table(measured).rstrip(),
    "",
    "| path | validation loss | without condition | change by condition | by both |"
    " its codec alone |",
    "|---|---|---|---|---|---|",
  ]
  for path in paths:
    condition, both = effects(path)
    lines.append(
      f"| {path.name} | {path.losses[0]:.4f} | {path.losses[1]:.4f} |"
      f" {condition:.1f} | {both:.1f} | {path.floor.text if path.floor else '-'} |"
    )
  lines += [
    "",
    "Changes are mean absolute differences in grey levels: of the condition alone with"
    " the same noise, and of condition and noise. The codec alone: the real images"
    " encoded and decoded, which nothing generated through it can exceed.",
    *(f"- {path.name}: {path.kind}" for path in paths),
  ]
  differing = differing_keys(configs)
  if differing or len(steps) > 1:
    told = [*differing, *(["step of the checkpoint"] if len(steps) > 1 else [])]
    lines += ["", f"**Not an equal comparison**: these differ: {', '.join(told)}."]
  return "\n".join([*lines, ""])


def metrics(
  paths: Sequence[Path], measured: Mapping[str, adherence.Adherence]
) -> dict[str, Any]:
  """Returns all figures as JSON holds them."""
  runs = {}
  for path in paths:
    condition, both = effects(path)
    runs[path.name] = {
      "step": path.step,
      "validation_loss": _finite(path.losses[0]),
      "validation_loss_unconditional": _finite(path.losses[1]),
      "change_by_condition": condition,
      "change_by_both": both,
      "data": path.kind,
      "reconstruction": reconstruction.describe(path.floor) if path.floor else None,
    }
  described = {
    name: adherence.describe(figures, labels.FINDINGS)
    for name, figures in measured.items()
  }
  return {"runs": runs, "adherence": described}


def picture(paths: Sequence[Path], asked: np.ndarray, real: np.ndarray) -> Image.Image:
  """Columns: conditions that show something first; rows: the real image, each path."""
  order = np.argsort(-asked.sum(axis=1), kind="stable")
  # Of each finding's first image, then whatever comes.
  first = [int(np.flatnonzero(column)[0]) for column in asked.T if column.any()]
  columns = list(dict.fromkeys([*first, *order.tolist()]))[:SHOWN]
  rows = [[real[i] for i in columns]]
  rows += [[path.images[i] for i in columns] for path in paths]
  return pictures.grid(
    rows,
    row_labels=["asked for", *(path.name for path in paths)],
    column_labels=[
      "\n".join(labels.names_of(asked[i])[:2]) or "No Finding" for i in columns
    ],
    title=f"a condition and a noise a column; {paths[0].kind.split(',')[0]}",
  )


def _finite(value: float) -> float | None:
  """JSON knows no nan."""
  return value if math.isfinite(value) else None
