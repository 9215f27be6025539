"""Visible blocks: how much larger steps between pixels are across borders of blocks.

images -> |x[i+1] - x[i]| along rows and columns -> mean at borders / mean elsewhere

A network that predicts patches, or bands of a wavelet, shows its grid at multiples of
the block's side. A figure near that of real images, about 1, means no visible grid.
"""

from collections.abc import Collection
import math

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric

# Sides of blocks in pixels: of two Haar levels, and of patches of two of those.
SIDES = (4, 8)

MIN_IMAGES = 2

METRICS = tuple(
  Metric(
    name=f"blockiness_{side}",
    subject="fidelity",
    title=f"Blockiness, {side} pixels",
    meaning=f"Mean step between pixels across borders of {side}x{side} blocks over that"
    " within blocks; compare it with that of real images.",
    bounds=(0.0, math.inf),
    minimum_n=MIN_IMAGES,
  )
  for side in SIDES
)


def steps(images: types.Arrays, side: int) -> tuple[np.ndarray, np.ndarray]:
  """Mean absolute steps [n] at the borders of blocks, and [n] elsewhere.

  Args:
    images: uint8 [n h w 1] of sides above `side`.
  """
  means = []
  for row in range(len(images)):
    image = np.asarray(images[row])[..., 0].astype(np.float64)
    # Borders along rows and columns have different numbers of pixels.
    sums = np.zeros((2, 2))
    for along in (image, image.T):
      of_place = np.abs(np.diff(along, axis=0)).sum(axis=1)
      border = (np.arange(len(of_place)) + 1) % side == 0
      for kind, chosen in enumerate((border, ~border)):
        sums[kind] += of_place[chosen].sum(), chosen.sum() * along.shape[1]
    means.append(sums[:, 0] / sums[:, 1])
  border, inside = np.array(means).T
  return border, inside


def measure(
  images: ImageSet,
  patients: np.ndarray | None,
  metrics: Collection[Metric] = METRICS,
) -> list[Measurement]:
  """The ratio of the sums over all images, with an interval over patients.

  Args:
    patients: names [n]; None where each image counts as one.
    metrics: some of `METRICS`, and perhaps others.
  """
  known = 0 if patients is None else len({*patients})
  fields = Fields(num=len(images), patients=known)
  rows = np.arange(len(images)) if patients is None else patients
  figures = []
  for record, side in zip(METRICS, SIDES, strict=True):
    if record not in metrics:
      continue
    figures.append(record.measurement(fields, _figure(images, rows, side)))
  return figures


def _figure(
  images: ImageSet, patients: np.ndarray, side: int
) -> statistics.Estimate | Fields:
  reason = ""
  if len(images) < MIN_IMAGES:
    reason = f"fewer than {MIN_IMAGES} images"
  elif min(np.shape(images.images[0])[:2]) <= side:
    reason = f"images have no border of blocks of {side} pixels"
  if reason:
    return Fields(value=None, reason=reason)
  border, inside = steps(images.images, side)
  if not inside.any():
    return Fields(value=None, reason="all images are constant within their blocks")
  ratio = border.sum() / inside.sum()
  return statistics.linear(ratio, ((border - ratio * inside) / inside.mean(), patients))
