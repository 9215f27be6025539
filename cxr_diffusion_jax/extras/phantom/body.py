"""The soft tissue around the chest: trunk, neck, shoulders, arms, breasts, jaw.

Parts that touch are joined by a norm of their depths, (a^4 + b^4)^(1/4), in cm.
"""

import numpy as np

from cxr_diffusion_jax.extras.phantom.anatomy import Patient, Study
from cxr_diffusion_jax.extras.phantom.grid import Grid, chord


def make_body(grid: Grid, patient: Patient, study: Study) -> np.ndarray:
  """cm of trunk, neck, shoulders, arms and breasts along each ray [h w]."""
  fat = patient.fat
  skin = patient.half_width + 0.082 + 0.1 * fat
  side = grid.curve(
    (-0.1, 0.5),
    (0.12, 0.62),
    (0.27, skin + 0.12),
    (0.42, skin + 0.03),
    (0.55, skin),
    (0.8, skin - 0.004),
    (1.1, skin + 0.015 * fat),
  )
  shoulder = grid.curve(
    (0.0, -0.3),
    (0.095 + 0.02 * fat, -0.12),
    (0.13 + 0.02 * fat, 0.0),
    (0.18, 0.05 - 0.015 * fat),
    (0.26, 0.075 - 0.02 * fat),
    (0.36, 0.09 - 0.02 * fat),
    (0.44, 0.105),
    (0.52, 0.15),
    (0.58, 0.26),
    (0.66, 0.5),
  )
  under = grid.y - grid.along_x(shoulder)
  ratio = grid.side_x / grid.along_y(side)
  trunk = np.float32(patient.depth) * np.sqrt(np.maximum(1 - ratio * ratio * ratio, 0))
  grow = grid.curve((0.0, 0.7), (0.2, 0.84), (0.4, 0.97), (0.55, 1.0), (1.0, 1.02))
  trunk = trunk * grid.along_y(grow)
  trunk = trunk * np.sqrt(np.clip(under / 0.14, 0, 1))
  neck = np.float32(11.5 + 3 * fat) * chord(grid.x / np.float32(0.125 + 0.02 * fat))
  neck = neck * np.clip((0.3 - grid.y) / 0.25, 0, 1)
  arms = _arms(grid, patient, study)
  body = np.square(np.square(trunk)) + np.square(np.square(neck))
  body = np.sqrt(np.sqrt(body + np.square(np.square(arms))))
  if patient.breast:
    body = body + _breasts(grid, patient)
  if study.chin:
    lift = -0.13 + 0.09 * study.chin
    ratio = ((grid.x - study.turn) / 0.15) ** 2 + ((grid.y - lift) / 0.14) ** 2
    body = body + 5 * np.sqrt(np.maximum(1 - ratio**2, 0))
  return body


def arm_axis(
  grid: Grid, patient: Patient, study: Study
) -> tuple[np.ndarray, np.ndarray]:
  """Distance from the upper arm's axis, and the way along it, both [h w]."""
  start_x, start_y = patient.half_width + 0.115, 0.2
  out, down = 0.1 + 0.75 * study.arms, 1.0
  norm = np.float32(np.hypot(out, down))
  dx, dy = (grid.side_x - start_x), (grid.y - start_y)
  along = (dx * out + dy * down) / norm
  across = np.abs(dx * down - dy * out) / norm
  before = np.minimum(along, 0)
  return np.sqrt(across**2 + before**2), along


def _arms(grid: Grid, patient: Patient, study: Study) -> np.ndarray:
  distance, _ = arm_axis(grid, patient, study)
  radius = np.float32(0.078 + 0.03 * patient.fat)
  return np.float32(11 + 4 * patient.fat) * chord(distance / radius)


def _breasts(grid: Grid, patient: Patient) -> np.ndarray:
  """Hemispheres whose lower edge is crisp and whose upper one fades."""
  radius = patient.breast
  sag = 0.63 + 0.001 * (patient.age - 40) + 0.3 * (radius - 0.1)
  down = grid.y - np.float32(sag)
  stretch = np.where(down > 0, np.float32(radius), np.float32(2.2 * radius))
  across = (grid.side_x - np.float32(0.62 * patient.half_width)) / np.float32(
    1.25 * radius
  )
  fade = np.clip(1 + down / np.float32(1.9 * radius), 0, 1) ** 1.5
  inside = np.maximum(1 - across**2 - (down / stretch) ** 2, 0)
  return np.float32(27 * radius) * np.sqrt(inside) * fade
