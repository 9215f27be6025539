"""Soft tissue around the chest, and bones, as cm along each ray.

Soft parts that touch are joined by a norm of their depths, (a^4 + b^4)^(1/4).

Ribs are level sets of one phase: with the distance from the spine u = sin(theta), the
k-th rib is where (y - y_0) / spacing - descent(theta) = k, behind for theta in
[0, pi/2] and in front beyond. A tube's cortex is bright, its marrow darker.
"""

import numpy as np

from cxr_diffusion_jax.extras.phantom.anatomy import Patient, Study
from cxr_diffusion_jax.extras.phantom.grid import Grid, chord, ramp
from cxr_diffusion_jax.extras.phantom.thorax import Thorax


def make_body(grid: Grid, patient: Patient, study: Study) -> np.ndarray:
  """cm of trunk, neck, shoulders, arms and breasts along each ray [h w]."""
  fat = patient.fat
  skin = patient.half_width + 0.082 + 0.1 * fat
  side = grid.curve(
    (-0.1, 0.5), (0.12, 0.62), (0.27, skin + 0.12), (0.42, skin + 0.03), (0.55, skin),
    (0.8, skin - 0.004), (1.1, skin + 0.015 * fat),
  )  # fmt: skip
  shoulder = grid.curve(
    (0.0, -0.3), (0.095 + 0.02 * fat, -0.12), (0.13 + 0.02 * fat, 0.0),
    (0.18, 0.05 - 0.015 * fat), (0.26, 0.075 - 0.02 * fat), (0.36, 0.09 - 0.02 * fat),
    (0.44, 0.105), (0.52, 0.15), (0.58, 0.26), (0.66, 0.5),
  )  # fmt: skip
  under = grid.y - grid.along_x(shoulder)
  ratio = grid.side_x / grid.along_y(side)
  trunk = np.float32(patient.depth) * np.sqrt(np.maximum(1 - ratio * ratio * ratio, 0))
  grow = grid.curve((0.0, 0.7), (0.2, 0.84), (0.4, 0.97), (0.55, 1.0), (1.0, 1.02))
  trunk = trunk * grid.along_y(grow)
  trunk = trunk * np.sqrt(np.clip(under / 0.14, 0, 1))
  neck = np.float32(11.5 + 3 * fat) * chord(grid.x / np.float32(0.125 + 0.02 * fat))
  neck = neck * np.clip((0.3 - grid.y) / 0.25, 0, 1)
  distance, _ = _arm_axis(grid, patient, study)
  arms = np.float32(11 + 4 * fat) * chord(distance / np.float32(0.078 + 0.03 * fat))
  body = np.square(np.square(trunk)) + np.square(np.square(neck))
  body = np.sqrt(np.sqrt(body + np.square(np.square(arms))))
  if patient.breast:
    body = body + _breasts(grid, patient)
  if study.chin:
    lift = -0.13 + 0.09 * study.chin
    ratio = ((grid.x - study.turn) / 0.15) ** 2 + ((grid.y - lift) / 0.14) ** 2
    body = body + 5 * np.sqrt(np.maximum(1 - ratio**2, 0))
  return body


def _arm_axis(
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


def _breasts(grid: Grid, patient: Patient) -> np.ndarray:
  """Hemispheres whose lower edge is crisp and whose upper one fades."""
  radius = patient.breast
  sag = 0.63 + 0.001 * (patient.age - 40) + 0.3 * (radius - 0.1)
  down = grid.y - np.float32(sag)
  stretch = np.where(down > 0, np.float32(radius), np.float32(2.2 * radius))
  across = grid.side_x - np.float32(0.62 * patient.half_width)
  across = across / np.float32(1.25 * radius)
  fade = np.clip(1 + down / np.float32(1.9 * radius), 0, 1) ** 1.5
  inside = np.maximum(1 - across**2 - (down / stretch) ** 2, 0)
  return np.float32(27 * radius) * np.sqrt(inside) * fade


def make_bones(
  grid: Grid, patient: Patient, study: Study, thorax: Thorax
) -> np.ndarray:
  """cm of bone [h w]: ribs, spine, clavicles, scapulae, upper arms."""
  solid = np.float32(1.15 - 0.006 * max(patient.age - 50, 0))
  return solid * (
    _ribs(grid, patient, study, thorax)
    + _spine(grid, patient, thorax)
    + _clavicles(grid, patient, study)
    + _scapulae(grid, patient, study)
    + _upper_arms(grid, patient, study)
  )


def _tube(ratio: np.ndarray, marrow: float = 0.7) -> np.ndarray:
  """Ray length in a hollow tube at `ratio` of its radius."""
  return chord(ratio) - np.float32(marrow) * chord(ratio * 1.35)


def _ribs(grid: Grid, patient: Patient, study: Study, thorax: Thorax) -> np.ndarray:
  geometry = thorax.geometry
  spacing = np.float32(geometry.rib_spacing)
  steep = np.float32(patient.rib_slope)
  outer = thorax.outer + 0.012
  reach = np.minimum(np.abs(grid.x - thorax.spine_x) / outer, 0.999)
  theta = np.arcsin(reach)
  cos = np.maximum(np.cos(theta), 0.12)
  first = geometry.apex - 0.02 + 0.2 * patient.rib_phase * spacing
  height = (grid.y - first) / spacing
  height = height * (1.04 - 0.1 * grid.y) + grid.pick(0.0, 0.07)

  def arc(fall: np.ndarray, slope: np.ndarray, half: float) -> np.ndarray:
    index = height - fall
    ratio = (index - np.round(index)) / np.float32(half)
    # Measured down the image a steep rib is thicker than across itself.
    ratio = ratio / np.sqrt(1 + (spacing * slope / (outer * cos)) ** 2)
    present = np.clip((index + 0.6) * 4, 0, 1) * np.clip((10.6 - index) * 4, 0, 1)
    return _tube(ratio) * present

  fall = steep * (0.95 * theta - 0.35) * theta
  behind = arc(fall, steep * (1.9 * theta - 0.35), 0.25)
  behind = behind * np.minimum(1 / cos, 2.4) * (0.95 + 0.15 * theta)
  rest = np.float32(np.pi / 2) - theta
  turn = steep * np.float32((0.95 * np.pi / 2 - 0.35) * np.pi / 2)
  front = arc(turn + (1.75 + 0.3 * rest) * rest, 1.75 + 0.6 * rest, 0.27)
  cartilage = np.abs(grid.x - np.float32(study.turn)) / outer
  front = front * np.clip((cartilage - 0.4) / 0.14, 0, 1) * np.minimum(1 / cos, 2.2)
  fade = np.clip((1.16 - thorax.reach) / 0.1, 0, 1)
  # Under the dome the thick abdomen scatters most of a rib's contrast away.
  return (behind + 0.55 * front) * fade * (0.45 + 0.55 * thorax.above)


def _spine(grid: Grid, patient: Patient, thorax: Thorax) -> np.ndarray:
  """Vertebral bodies with discs, pedicles and spinous processes."""
  # Only the columns near the spine are worth the work.
  near = np.flatnonzero(grid.side_x.min(axis=0) < 0.09)
  columns = slice(near[0], near[-1] + 1)
  x, y = grid.x[:, columns], grid.y[:, columns]
  across = x - thorax.spine_x[:, columns]
  half = 0.036 + 0.016 * y
  index = (y + 0.3 * patient.rib_phase * 0.06) / (0.05 + 0.008 * y)
  part = index - np.round(index)
  ratio = across / half
  waist = np.square(ratio * (1.1 - 0.8 * part * part))
  body = chord(waist)
  disc = np.clip((np.abs(part) - 0.36) / 0.08, 0, 1)
  plate = np.maximum(1 - np.abs(np.abs(part) - 0.34) / 0.06, 0)
  bone = body * (1.05 - 0.4 * disc + 0.2 * plate)
  pedicle = np.square((np.abs(ratio) - 0.6) / 0.2) + np.square((part + 0.12) / 0.17)
  bone = bone + 0.3 * np.clip(1.5 - np.abs(pedicle - 0.8) * 2, 0, 1)
  process = np.square(ratio / 0.17) + np.square((part - 0.16) / 0.24)
  bone = bone + 0.5 * chord(process)
  whole = np.zeros_like(grid.x)
  whole[:, columns] = bone
  return whole


def _clavicles(grid: Grid, patient: Patient, study: Study) -> np.ndarray:
  lift = patient.apex + (0.005 if study.view == "PA" else -0.02)
  width = patient.half_width
  knots = (
    (0.0, lift + 0.085), (0.03, lift + 0.078), (0.3 * width, lift + 0.054),
    (0.65 * width, lift + 0.022), (0.95 * width, lift + 0.012),
    (1.3 * width, lift + 0.016),
  )  # fmt: skip
  course = grid.curve(*knots)
  radii = (0.0, 0.017), (0.06, 0.0145), (0.16, 0.0115), (0.3, 0.0115), (0.4, 0.014)
  radius = grid.curve(*radii)
  from_sternum = np.abs(grid.x - np.float32(study.turn))
  distance = (grid.y - grid.along_x(course)) * np.float32(0.96)
  ends = np.clip((from_sternum - 0.024) / 0.006, 0, 1)
  ends = ends * np.clip((1.28 * width - grid.side_x) / 0.01, 0, 1)
  return 2.7 * _tube(distance / grid.along_x(radius), 0.6) * ends


def _scapulae(grid: Grid, patient: Patient, study: Study) -> np.ndarray:
  """A thin triangular blade with thick borders, and its spine."""
  x = grid.side_x - np.float32(patient.half_width - 0.02 - study.scapula)
  y = grid.y - np.float32(patient.apex + 0.07)
  inner = x - 0.16 * y
  outer = np.float32(0.115) - x - 0.34 * y
  upper = y + 0.35 * x
  # A soft minimum rounds the corners and curves the borders.
  sharp = np.float32(-70)
  depth = np.log(np.exp(sharp * inner) + np.exp(sharp * outer) + np.exp(sharp * upper))
  depth = depth / sharp
  blade = ramp(depth, 0.006) * np.float32(0.3)
  border = np.clip(1 - np.abs(depth - 0.006) / 0.011, 0, 1) * np.float32(0.45)
  ridge = np.clip(1 - np.abs(y - 0.02 + 0.42 * x) / 0.012, 0, 1)
  ridge = ridge * ((x > 0) & (x < 0.15)) * np.float32(0.8)
  return blade + border + ridge


def _upper_arms(grid: Grid, patient: Patient, study: Study) -> np.ndarray:
  distance, along = _arm_axis(grid, patient, study)
  across = grid.side_x - np.float32(patient.half_width + 0.1)
  head = np.hypot(across, grid.y - np.float32(0.195))
  socket = np.float32(1.5) * chord(head / np.float32(0.038))
  shaft = 2.2 * _tube(distance / np.float32(0.022), 0.55) * (along > 0.0)
  return np.maximum(socket, shaft)
