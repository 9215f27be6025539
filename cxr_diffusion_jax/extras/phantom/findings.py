"""What lesions do to the lungs: air replaced by fluid, or tissue by air.

Each lesion gives an opacity (the share of the lung's air that became water), an
emptiness (the share of its tissue that went), and cm of soft tissue added.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from cxr_diffusion_jax.extras.phantom import texture
from cxr_diffusion_jax.extras.phantom.anatomy import Lesion
from cxr_diffusion_jax.extras.phantom.grid import Grid, chord, ramp
from cxr_diffusion_jax.extras.phantom.thorax import Thorax


class Box(NamedTuple):
  """Where a finding is: `x`, `y` of the upper left corner, `w`, `h`, in [0, 1]."""

  finding: str
  x: float
  y: float
  w: float
  h: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
  """Fields [h w] of one lesion, or 0 where it has no such effect."""

  opacity: np.ndarray | float = 0.0  # share of air replaced by water
  empty: np.ndarray | float = 0.0  # share of tissue removed
  added: np.ndarray | float = 0.0  # cm of soft tissue
  mask: np.ndarray  # bool, what a reader would outline


def box_of(name: str, mask: np.ndarray) -> Box | None:
  """The tight box around `mask` [h w]; None when it is empty."""
  rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
  if not len(rows):
    return None
  height, width = mask.shape
  x, w = columns[0] / width, (columns[-1] + 1 - columns[0]) / width
  y, h = rows[0] / height, (rows[-1] + 1 - rows[0]) / height
  return Box(name, float(x), float(y), float(w), float(h))


def _noise(rng: np.random.Generator, size: int, *cells: int) -> np.ndarray:
  """The mean of noises of several scales, of unit variance."""
  noises = [texture.smooth_noise(rng, size, count) for count in cells]
  return np.asarray(sum(noises) / np.float32(len(noises) ** 0.5))


def _spot(grid: Grid, x: float, y: float, rx: float, ry: float) -> np.ndarray:
  """Distance from (|x|, y) in radii."""
  across, down = (grid.side_x - np.float32(x)) / rx, (grid.y - np.float32(y)) / ry
  return np.sqrt(across * across + down * down)


def _effusion(rng, lesion, side, grid, thorax) -> Change:
  """Fluid with a meniscus: its surface climbs the chest wall."""
  geometry = thorax.geometry
  right = geometry.dome_right if lesion.side < 0 else geometry.dome_left
  level = right + 0.035 - (0.1 + 0.21 * lesion.extent)
  wall = thorax.outer - grid.side_x
  climb = np.float32(0.15) * np.exp(-np.maximum(wall, 0) / 0.055)
  climb = climb + 0.03 * np.exp(-grid.side_x / 0.08)
  depth = grid.y - (np.float32(level + 0.08) - climb)
  opacity = np.clip(depth / 0.05 + 0.3, 0, 1) * side
  # Fluid compresses what lung is left above it.
  hazy = side & (grid.y > 0.35)
  opacity = np.maximum(opacity, hazy * np.float32(0.15 * lesion.extent))
  inside = (thorax.reach < 1) & (thorax.above > 0.5) & side
  return Change(opacity=opacity, mask=(depth > 0.0) & inside & (thorax.lung > 0.5))


def _pneumothorax(rng, lesion, side, grid, thorax) -> Change:
  """Air between the chest wall and the collapsed lung's visible pleura."""
  geometry = thorax.geometry
  gap = 0.25 + 0.25 * lesion.extent
  profile = grid.curve((0.1, 1.0), (0.3, 0.9), (0.55, 0.72), (0.8, 0.55))
  wavy = 1 + 0.05 * np.sin(grid.y * 30 + rng.uniform(0, 6))
  edge = thorax.outer * (1 - np.float32(gap) * grid.along_y(profile) * wavy)
  apex = geometry.apex + 0.03 + 0.28 * gap
  across = grid.side_x - np.float32(0.3 * geometry.half_width)
  crown = grid.y - np.float32(apex) - 5.0 * across**2
  # A smooth minimum rounds the shoulder of the collapsed lung.
  flank, blend = edge - grid.side_x, np.float32(0.06)
  mix = np.clip(0.5 + 0.5 * (flank - crown) / blend, 0, 1)
  inside = flank + (crown - flank) * mix - blend * mix * (1 - mix)
  empty = ramp(-inside, max(1.5 * grid.pixel, 0.006)) * side
  width = max(0.0042, 0.9 * grid.pixel)
  line = np.clip(1.3 - np.abs(inside - 0.002) / width, 0, 1) * side
  seen = line * (thorax.lung > 0.8) * (thorax.above > 0.5)
  mask = (empty > 0.5) & (thorax.lung > 0.5) & (thorax.above > 0.5)
  return Change(
    empty=empty,
    added=np.float32(0.9) * seen,
    opacity=np.float32(0.08 + 0.12 * lesion.extent) * (inside > 0) * side,
    mask=mask,
  )


def _ball(rng, lesion, side, grid, thorax) -> Change:
  """A nodule or mass; a mass is lobulated and sends out spicules."""
  radius = 0.5 * lesion.diameter / grid.field_cm
  distance = _spot(grid, lesion.x, lesion.y, radius, radius)
  if lesion.name == "Mass":
    rough = _noise(rng, len(grid.x), 12, 24)
    distance = distance * (1 + np.float32(0.09 + 0.06 * lesion.extent) * rough)
  distance = np.where(side, distance, 9)
  # Partly calcified, so that a small one is still seen between the ribs.
  gain = np.float32(2.4 - 0.3 * min(lesion.diameter, 4.5))
  halo = np.float32(0.25) * np.clip(1.6 - distance, 0, 1)
  return Change(
    added=np.float32(lesion.diameter) * gain * chord(distance),
    opacity=halo if lesion.name == "Mass" else 0.0,
    mask=distance < 1,
  )


def _consolidation(rng, lesion, side, grid, thorax) -> Change:
  """Airspaces full of fluid, sharp at a fissure, with air bronchograms."""
  size = 0.095 + 0.06 * lesion.extent
  rough = _noise(rng, len(grid.x), 10, 20)
  distance = _spot(grid, lesion.x, lesion.y, size, 1.15 * size)
  solid = np.clip(1.5 * (1.2 - distance + 0.22 * rough), 0, 1)
  fissure = 0.46 + 0.25 * (grid.side_x - 0.15)
  below = lesion.y > 0.46
  solid = solid * ramp((grid.y - fissure) if below else (fissure - grid.y), 0.035)
  airway = texture.vessels(rng, grid, right=(-0.07, 0.41), left=(0.075, 0.39))
  bronchi = np.clip(0.8 * airway, 0, 0.3)
  opacity = np.where(side, solid * (0.82 + 0.06 * rough - bronchi), 0)
  return Change(opacity=opacity, mask=(opacity > 0.3) & (thorax.lung > 0.5))


def _infiltration(rng, lesion, side, grid, thorax) -> Change:
  """Patchy, ill-defined, streaky density."""
  size = 0.1 + 0.05 * lesion.extent
  patches = _noise(rng, len(grid.x), 16, 30)
  streaks = texture.smooth_noise(rng, len(grid.x), 56)
  distance = _spot(grid, lesion.x, lesion.y, size, 1.3 * size)
  around = np.exp(-1.1 * distance**2)
  grain = np.clip(0.3 + 0.17 * patches + 0.2 * streaks, 0, 0.85)
  dense = np.minimum(around * grain, 0.4) * np.float32(1.35 + 0.15 * lesion.extent)
  opacity = np.where(side, dense, 0)
  return Change(opacity=opacity, mask=side & (around > 0.35) & (thorax.lung > 0.5))


def _edema(rng, lesion, side, grid, thorax) -> Change:
  """The bat's wings: hazy density around both hila, sparing the periphery."""
  rough = _noise(rng, len(grid.x), 14, 28)
  spot = _spot(grid, 0.12, 0.46, 0.1 + 0.03 * lesion.extent, 0.17)
  wing = np.exp(-0.9 * spot**2)
  grain = np.clip(0.75 + 0.22 * rough, 0.1, 1.3)
  haze = np.float32(0.12 + 0.06 * lesion.extent) * (grid.y > 0.25)
  opacity = wing * grain * np.float32(0.52 + 0.25 * lesion.extent) + haze
  # Kerley B: thickened septa as short level lines at the lower chest wall.
  near = (thorax.reach > 0.86) & (thorax.reach < 0.99) & (grid.y > 0.55)
  lines = np.clip(1 - np.abs((grid.y * 55) % 1 - 0.5) / 0.2, 0, 1) * near
  return Change(
    opacity=np.minimum(opacity, 0.8),
    added=np.float32(0.35) * lines,
    mask=(wing > 0.45) & (thorax.lung > 0.5),
  )


def _atelectasis(rng, lesion, side, grid, thorax) -> Change:
  """Collapse at a raised base: plates of airless lung and crowded haze."""
  opacity = np.float32(0.6) * np.exp(-np.maximum(thorax.dome - grid.y, 0) / 0.05)
  mask = (thorax.dome - grid.y < 0.1) & (grid.y < thorax.dome)
  for number in range(1 + int(2.5 * lesion.extent)):
    middle = 0.17 + rng.uniform(-0.03, 0.03)
    height = 0.06 + 0.05 * number + rng.uniform(-0.01, 0.01)
    slope = rng.uniform(-0.4, 0.6)
    floor = thorax.dome * 0.25 + 0.75 * thorax.dome[side].min()
    along = grid.side_x - np.float32(middle)
    offset = grid.y - floor + height - (slope - 2.5 * along) * along
    reach = np.clip((0.09 - np.abs(grid.side_x - middle)) / 0.03, 0, 1)
    plate = np.clip(1.4 - np.abs(offset) / rng.uniform(0.007, 0.012), 0, 1) * reach
    opacity = np.maximum(opacity, 0.62 * plate)
    mask = mask | (plate > 0.4)
  wedge = 0.24 * (1 - (0.8 - grid.y) / 0.35)
  collapsed = ramp(wedge - grid.side_x, 0.03) * (grid.y > 0.45)
  opacity = np.maximum(opacity, collapsed * np.float32(0.5 * lesion.extent))
  opacity = np.where(side, opacity, 0)
  return Change(opacity=opacity, mask=mask & side & (thorax.lung > 0.5))


def _emphysema(rng, lesion, side, grid, thorax) -> Change:
  """Destroyed lung: bullae and thinned markings in the periphery."""
  rough = _noise(rng, len(grid.x), 8, 14)
  hole = np.clip(0.25 + 0.3 * rough + 0.5 * (thorax.reach - 0.5), 0, 0.85)
  empty = hole * np.float32(0.5 + 0.4 * lesion.extent)
  return Change(empty=empty, mask=(thorax.lung > 1.0) & (thorax.above > 0.5))


_CHANGES = {
  "Atelectasis": _atelectasis,
  "Consolidation": _consolidation,
  "Edema": _edema,
  "Effusion": _effusion,
  "Emphysema": _emphysema,
  "Infiltration": _infiltration,
  "Mass": _ball,
  "Nodule": _ball,
  "Pneumothorax": _pneumothorax,
}


def change_of(lesion: Lesion, grid: Grid, thorax: Thorax) -> Change | None:
  """The change that `lesion` makes; None for cardiomegaly, which is geometry alone."""
  if lesion.name not in _CHANGES:
    return None
  rng = np.random.default_rng(lesion.seed)
  side = np.ones_like(grid.left) if not lesion.side else grid.left == (lesion.side > 0)
  return _CHANGES[lesion.name](rng, lesion, side, grid, thorax)
