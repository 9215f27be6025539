"""Rib cage, heart and lungs: their measures, deformed by lesions, and smooth fields.

patient, study -> Geometry -> pushed (effusion), pulled (atelectasis) ... -> Thorax

Borders are curves through anatomical knots; inside them the length of the ray follows
from an ellipse, so length = depth * sqrt(1 - (distance / half width)^2), in cm.
"""

import dataclasses

import numpy as np

from cxr_diffusion_jax.extras.phantom.anatomy import LEFT, RIGHT, Lesion, Patient, Study
from cxr_diffusion_jax.extras.phantom.grid import Grid, chord, ramp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
  """Measures of the thorax, as in `Patient`, after its lesions have deformed it."""

  half_width: float
  apex: float
  ctr: float  # cardiothoracic ratio aimed at
  shift: float  # of the mediastinum
  dome_right: float  # y of the diaphragm's tops
  dome_left: float
  arch: float  # height of the domes above the costophrenic angles
  density: float
  vessel_gain: float  # 1 normal
  rib_spacing: float


def make_geometry(patient: Patient, study: Study) -> Geometry:
  """The thorax of `patient` at the time of `study`."""
  bedside = study.view == "AP"
  dome = 0.735 - 0.07 * study.breath
  geometry = Geometry(
    half_width=patient.half_width,
    apex=patient.apex,
    # A heart far from the detector is magnified, and shallow breath widens it.
    ctr=min(patient.ctr + 0.03 * bedside + 0.015 * study.breath, 0.515),
    shift=0.6 * study.turn,
    dome_right=dome,
    dome_left=dome + 0.022,
    arch=0.125,
    density=patient.density * (1 + 0.15 * study.breath),
    vessel_gain=1.0,
    rib_spacing=patient.rib_spacing,
  )
  for lesion in study.lesions:
    geometry = _deform(geometry, lesion)
  return geometry


def _deform(geometry: Geometry, lesion: Lesion) -> Geometry:
  """`geometry` as changed by one lesion: pushed, pulled, stretched."""
  replace = dataclasses.replace
  extent, side, shift, ctr = lesion.extent, lesion.side, geometry.shift, geometry.ctr
  match lesion.name:
    case "Cardiomegaly":
      return replace(geometry, ctr=0.585 + 0.11 * extent)
    case "Edema":
      return replace(geometry, vessel_gain=1.25, ctr=max(ctr, ctr * 0.9 + 0.055))
    case "Effusion":
      return replace(geometry, shift=shift - side * 0.05 * max(extent - 0.6, 0))
    case "Pneumothorax":
      return replace(geometry, shift=shift - side * 0.12 * max(extent - 0.55, 0))
    case "Atelectasis":
      rise = 0.05 + 0.06 * extent
      return replace(
        geometry,
        shift=shift + side * (0.018 + 0.03 * extent),
        dome_right=geometry.dome_right - rise * (side == RIGHT),
        dome_left=geometry.dome_left - rise * (side == LEFT),
      )
    case "Emphysema":
      low = 0.79 + 0.03 * extent
      return replace(
        geometry,
        ctr=0.33 + 0.06 * (1 - extent),
        half_width=geometry.half_width * 1.04,
        apex=geometry.apex - 0.015,
        dome_right=low,
        dome_left=low + 0.008,
        arch=0.035 - 0.015 * extent,
        density=geometry.density * (0.5 - 0.2 * extent),
        vessel_gain=0.6,
        rib_spacing=geometry.rib_spacing * 1.12,
      )
  return geometry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thorax:
  """Fields [h w] of the chest, in canonical units or in cm along the ray."""

  geometry: Geometry
  outer: np.ndarray  # half width of the rib cage at each pixel's height
  spine_x: np.ndarray
  reach: np.ndarray  # distance from the spine over `outer`, 1 at the chest wall
  dome: np.ndarray  # height of the diaphragm
  above: np.ndarray  # 1 above the diaphragm, 0 below
  cage: np.ndarray  # cm inside the rib cage above the diaphragm
  lung: np.ndarray  # cm of it that are neither heart nor mediastinum
  ctr: float  # as measured
  heart_box: tuple[float, float, float, float]  # (x, y, w, h), fractions of the image


def make_thorax(grid: Grid, patient: Patient, geometry: Geometry) -> Thorax:
  """Rib cage, heart and lungs on `grid`."""
  width, apex = geometry.half_width, geometry.apex
  outer_curve = grid.curve(
    (apex - 0.06, 0.36 * width), (apex + 0.03, 0.56 * width),
    (apex + 0.09, 0.7 * width), (0.31, 0.84 * width), (0.46, 0.945 * width),
    (0.62, 1.0 * width), (0.74, 1.01 * width), (0.88, 0.99 * width),
    (1.1, 0.93 * width),
  )  # fmt: skip
  outer = grid.along_y(outer_curve)
  bend = grid.curve((-0.1, 0), (0.2, 0.6), (0.45, 1), (0.7, -0.3), (1.1, -0.6))
  spine_x = grid.along_y(bend * np.float32(patient.bend))
  reach = np.abs(grid.x - spine_x) / outer
  dome = _dome(grid, geometry)
  edge = max(1.2 * grid.pixel, 0.006)
  above = ramp(dome - grid.y, edge)
  top = apex + 4.2 * (grid.side_x - 0.3 * width) ** 2
  below_top = np.sqrt(np.clip((grid.y - top) / 0.16, 0, 1))
  depth = grid.along_y(grid.curve((0.05, 10), (0.25, 13), (0.45, 15.5), (0.75, 16)))
  depth = depth * np.float32(patient.depth / 21)
  # Lung hides behind the dome too, in the posterior recess.
  recess = np.exp(np.minimum((dome - grid.y) / 0.04, 0)) * np.float32(0.1)
  over = above * (0.8 + 0.2 * np.clip((dome - grid.y) / 0.12, 0, 1))
  room = depth * np.sqrt(np.maximum(1 - reach * reach * reach, 0)) * below_top
  right, left = _heart_borders(grid, patient, geometry)
  heart = _heart(grid, patient, right, left)
  ctr, heart_box = _measure_heart(grid, geometry, outer_curve, right, left)
  cage = room * np.maximum(over, recess)
  return Thorax(
    geometry=geometry,
    outer=outer,
    spine_x=spine_x,
    reach=np.minimum(reach, 1.2),
    dome=dome,
    above=above,
    cage=cage,
    lung=np.maximum(cage - heart, 0),
    ctr=ctr,
    heart_box=heart_box,
  )


def _dome(grid: Grid, geometry: Geometry) -> np.ndarray:
  """Height of the diaphragm over |x|, by side."""
  width, arch = geometry.half_width, geometry.arch
  centre = 0.5 * width
  shape = grid.curve(
    (0.0, 0.32 * arch), (0.25 * width, 0.1 * arch), (centre, 0.0),
    (0.7 * width, 0.15 * arch), (0.86 * width, 0.5 * arch), (0.97 * width, 1.05 * arch),
    (1.1 * width, 1.9 * arch),
  )  # fmt: skip
  return grid.along_x(shape) + grid.pick(geometry.dome_right, geometry.dome_left)


def _heart_borders(
  grid: Grid, patient: Patient, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
  """Distances of the mediastinum's right and left border from the midline, over y."""
  full = geometry.ctr * 2.02 * geometry.half_width
  right, left = 0.36 * full, 0.64 * full
  floor = 0.5 * (geometry.dome_right + geometry.dome_left)
  base, knob = 0.36, patient.knob

  def level(part: float) -> float:
    return base + part * (floor + 0.03 - base)

  right_border = grid.curve(
    (-0.1, 0.055), (0.1, 0.052), (0.2, 0.056), (0.3, 0.06), (level(0.0), 0.064),
    (level(0.22), 0.068 + 0.25 * (right - 0.068)), (level(0.45), 0.92 * right),
    (level(0.65), right), (level(0.88), 0.93 * right), (level(1.25), 0.7 * right),
  )  # fmt: skip
  left_border = grid.curve(
    (-0.1, 0.055), (0.1, 0.052), (0.2, 0.058), (0.245, 0.062 + knob),
    (0.285, 0.066 + knob), (0.325, 0.062 + 0.2 * knob), (level(0.0), 0.07),
    (level(0.2), 0.086), (level(0.4), 0.086 + 0.5 * (left - 0.086)),
    (level(0.62), 0.086 + 0.86 * (left - 0.086)), (level(0.82), left),
    (level(0.97), 0.96 * left), (level(1.2), 0.75 * left), (level(1.5), 0.3 * left),
  )  # fmt: skip
  # The upper mediastinum is tethered; a shift moves the heart most.
  move = grid.curve((0.0, 0.2), (0.3, 0.6), (0.5, 1.0), (1.0, 1.0))
  move = move * np.float32(geometry.shift)
  return right_border - move, left_border + move


def _heart(
  grid: Grid, patient: Patient, right: np.ndarray, left: np.ndarray
) -> np.ndarray:
  """cm of heart and mediastinum [h w] between its borders."""
  thick = grid.curve((0.1, 10.0), (0.3, 10.0), (0.42, 10.5), (0.6, 12.5), (0.8, 13.5))
  centre = grid.along_y(0.5 * (left - right))
  half = grid.along_y(0.5 * (left + right))
  scale = np.float32(patient.depth / 21)
  return chord((grid.x - centre) / half) * grid.along_y(thick) * scale


def _measure_heart(
  grid: Grid, geometry: Geometry, outer: np.ndarray, right: np.ndarray, left: np.ndarray
) -> tuple[float, tuple[float, float, float, float]]:
  """Cardiothoracic ratio from the borders above the domes, and the heart's box."""
  floor = 0.5 * (geometry.dome_right + geometry.dome_left) + 0.03
  y = grid.positions
  rows = (y > 0.4) & (y < floor)
  far_right, far_left = -right[rows].max(), left[rows].max()
  thorax = 2 * outer[(y > 0.4) & (y < floor + geometry.arch)].max()
  corners = np.array(
    [[far_right, far_right, far_left, far_left], [0.38, floor, 0.38, floor], [1] * 4]
  )
  columns, lines = grid.to_pixel @ corners / len(grid.x)
  x0, x1 = np.clip([columns.min(), columns.max()], 0, 1)
  y0, y1 = np.clip([lines.min(), lines.max()], 0, 1)
  box = (float(x0), float(y0), float(x1 - x0), float(y1 - y0))
  return float((far_left - far_right) / thorax), box
