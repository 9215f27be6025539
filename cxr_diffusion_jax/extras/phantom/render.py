"""Renders procedural chest X-rays: a phantom patient, its findings, and their measures.

numbers -> geometry -> cm along each ray -> Beer-Lambert, I = exp(-sum mu * length)
-> scatter, noise -> display of -log(I). Image i is a function of (seed, i) alone.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax.extras.phantom import anatomy, texture
from cxr_diffusion_jax.extras.phantom.anatomy import Lesion, Patient, Study
from cxr_diffusion_jax.extras.phantom.body import make_body, make_bones
from cxr_diffusion_jax.extras.phantom.findings import Box, Change, box_of, change_of
from cxr_diffusion_jax.extras.phantom.grid import Grid, chord, make_grid, ramp
from cxr_diffusion_jax.extras.phantom.thorax import (
  Geometry,
  Thorax,
  make_geometry,
  make_thorax,
)

# What each lesion does; None for those that are geometry alone.
Changes = Sequence[tuple[Lesion, Change | None]]

# Attenuation per cm near 60 keV effective: water, and what bone has above water.
MU_WATER, MU_BONE = 0.2, 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phantom:
  """A rendered X-ray and what is true of it."""

  image: (
    np.ndarray
  )  # uint8 [h w], bone bright, the patient's left on the viewer's right
  findings: tuple[str, ...]  # sorted names, empty for none
  boxes: tuple[Box, ...]  # one a lesion, in [0, 1]
  age: int  # years
  sex: str  # 'M' or 'F'
  view: str  # 'PA' or 'AP'
  cardiothoracic_ratio: float  # the heart's width over the thorax's inner width
  lung_area: tuple[float, float]  # (right, left) share of the image: aerated lung
  diaphragm: tuple[float, float]  # (right, left) height of the domes, from the top
  pixel_cm: float  # width of a pixel


def make_phantom(
  seed: int,
  index: int,
  *,
  size: int,
  patient: int | None = None,
  findings: tuple[str, ...] | None = None,
  view: str | None = None,
) -> Phantom:
  """Renders image `index` of the collection `seed`.

  Args:
    seed, index: name the image; equal names give equal images in any process.
    size: pixels of its sides, 32 or more.
    patient: number of the body within the collection; None: one for this image.
    findings: names to show; None draws them (40 % none).
    view: 'PA' or 'AP'; None draws it.
  """
  body = np.random.default_rng([seed, 1, index if patient is None else patient])
  rng = np.random.default_rng([seed, index])
  person = anatomy.sample_patient(body)
  drawn = anatomy.sample_findings(rng)
  study = anatomy.sample_study(
    rng, person, findings=drawn if findings is None else findings, view=view
  )
  return render(person, study, size=size)


def render(patient: Patient, study: Study, *, size: int) -> Phantom:
  """Renders `study` of `patient` as a square image of `size` pixels."""
  grid = make_grid(study, size)
  geometry = make_geometry(patient, study)
  thorax = make_thorax(grid, patient, geometry)
  changes = [(lesion, change_of(lesion, grid, thorax)) for lesion in study.lesions]
  water, aerated = _water(grid, patient, study, thorax, changes)
  bone = make_bones(grid, patient, study, thorax)
  tau = MU_WATER * water + MU_BONE * bone
  # A generator each: how much noise is drawn depends on the size, the rest must not.
  lead, noise, marks, beam = (np.random.default_rng([study.seed, i]) for i in range(4))
  if study.wires:
    tau = tau + 2.5 * texture.wires(lead, grid, study.wires)
  image = _expose(noise, tau, study, thorax)
  image = _mark(marks, image, grid, study)
  image = _collimate(beam, image, study)
  right, left = (float((aerated & side).mean()) for side in (~grid.left, grid.left))
  boxes = (
    box_of(lesion.name, change.mask) if change else Box(lesion.name, *thorax.heart_box)
    for lesion, change in changes
  )
  return Phantom(
    image=(image * 255 + 0.5).astype(np.uint8),
    findings=study.findings,
    boxes=tuple(box for box in boxes if box),
    age=patient.age,
    sex=patient.sex,
    view=study.view,
    cardiothoracic_ratio=thorax.ctr,
    lung_area=(right, left),
    diaphragm=(geometry.dome_right, geometry.dome_left),
    pixel_cm=grid.pixel * grid.field_cm,
  )


def _water(
  grid: Grid, patient: Patient, study: Study, thorax: Thorax, changes: Changes
) -> tuple[np.ndarray, np.ndarray]:
  """cm of water-like tissue [h w], and where lung still holds air [h w] bool."""
  rng = np.random.default_rng(patient.seed)
  size, geometry = len(grid.x), thorax.geometry
  grain = texture.smooth_noise(rng, size, 9) + texture.smooth_noise(rng, size, 40)
  density = np.float32(geometry.density) * (1 + 0.07 * grain)
  # Weight of the lung itself packs its lower part.
  density = density * (0.85 + 0.3 * grid.y)
  move = geometry.shift
  hila = {"right": (move - 0.078, 0.43), "left": (move + 0.085, 0.405)}
  tree = texture.vessels(rng, grid, **hila)
  room = np.clip(thorax.lung / 6, 0, 1) * np.float32(2.3 * geometry.vessel_gain)
  trunks = _hila(grid, move) * np.float32(geometry.vessel_gain)
  marks = tree * room + trunks * np.clip(thorax.lung / 4, 0, 1)
  opacity, empty, added = np.float32(0), np.float32(0), np.float32(0)
  for _, change in changes:
    if change is not None:
      opacity = opacity + (1 - opacity) * change.opacity
      empty = np.maximum(empty, change.empty)
      added = added + change.added
  density = density * (1 - empty)
  density = density + (1 - density) * opacity * (1 - empty)
  tissue = thorax.lung * density + (marks * (1 - empty)) * (1 - opacity)
  tissue = np.minimum(tissue, thorax.lung)
  body = np.maximum(make_body(grid, patient, study), thorax.cage * 1.1)
  water = body - thorax.lung + tissue + added - _airways(grid, study, geometry)
  water = water - _bowel_gas(grid, patient, study, geometry)
  fill = (thorax.lung > 1) & (thorax.above > 0.5) & (opacity < 0.5)
  return np.maximum(water, 0), fill


def _hila(grid: Grid, shift: float) -> np.ndarray:
  """cm of the pulmonary arteries' trunks beside the heart."""
  x = grid.x - np.float32(shift)
  right = ((x + 0.083) / 0.03) ** 2 + ((grid.y - 0.44) / 0.06) ** 2
  left = ((x - 0.09) / 0.032) ** 2 + ((grid.y - 0.405) / 0.045) ** 2
  return 1.7 * (np.exp(-right) + np.exp(-left))


def _airways(grid: Grid, study: Study, geometry: Geometry) -> np.ndarray:
  """cm of air in the trachea and the main bronchi."""
  x = grid.x - 0.4 * np.float32(geometry.shift) - np.float32(0.4 * study.turn) * grid.y
  trachea = chord(x / 0.024) * ramp(0.355 - grid.y, 0.03)
  down = grid.y - 0.35
  bronchi = np.abs(grid.side_x - grid.pick(0.8, 1.2) * down)
  bronchi = chord(bronchi / 0.019) * (down > 0) * ramp(0.09 - down, 0.05)
  return 2.7 * trachea + 1.5 * bronchi


def _bowel_gas(
  grid: Grid, patient: Patient, study: Study, geometry: Geometry
) -> np.ndarray:
  """cm of air in the stomach's fundus under the left dome, and in the colon."""
  if not study.gas:
    return np.zeros_like(grid.x)
  wide, high = 0.045 + 0.05 * study.gas, 0.022 + 0.03 * study.gas
  top = geometry.dome_left + 0.022 + high
  across = (grid.x - np.float32(0.5 * patient.half_width)) / wide
  bubble = chord(np.hypot(across, (grid.y - top) / high))
  if patient.seed % 2:
    bubble = bubble * ramp(top + 0.3 * high - grid.y, 0.008)
  rng = np.random.default_rng([patient.seed, study.seed])
  loops = np.clip(0.5 * texture.smooth_noise(rng, len(grid.x), 14) - 0.55, 0, 0.6)
  loops = loops * np.clip((grid.y - top - 0.06) / 0.04, 0, 1) * (grid.side_x < 0.3)
  return np.float32(4 + 3 * study.gas) * bubble + 3.5 * loops


def _expose(
  rng: np.random.Generator, tau: np.ndarray, study: Study, thorax: Thorax
) -> np.ndarray:
  """Optical depth [h w] to display values [h w] in [0, 1]."""
  size = len(tau)
  direct = np.exp(-tau)
  scattered = texture.spread(np.minimum(direct, 0.25))
  arrived = texture.blur(direct + np.float32(study.scatter) * scattered, size / 512)
  grain = rng.standard_normal(tau.shape, dtype=np.float32)
  # Photon noise, for equal dose per area whatever the pixel's size.
  arrived = arrived + np.float32(study.noise * size / 256) * np.sqrt(arrived) * grain
  log = -np.log(np.maximum(arrived, 1e-3))
  inside = log[(thorax.reach < 0.95) & (thorax.cage > 1)]
  dark = np.partition(inside, len(inside) // 5)[len(inside) // 5]
  bright = np.partition(log.ravel(), int(0.97 * log.size))[int(0.97 * log.size)]
  level = (log - dark) / (bright - dark)
  value = 0.66 + study.brightness + study.contrast * (0.45 * level - 0.21)
  # A toe that lets air go black and a shoulder that keeps the abdomen grey.
  value = np.where(value < 0.3, 0.3 * np.exp((value - 0.3) / 0.22), value)
  return np.where(value > 0.8, 0.8 + 0.16 * np.tanh((value - 0.8) / 0.16), value)


def _mark(
  rng: np.random.Generator, image: np.ndarray, grid: Grid, study: Study
) -> np.ndarray:
  """Burns in the laterality marker, and at the bedside sometimes a caption."""
  right = study.marker == "L"
  x = rng.uniform(0.88, 0.94) if right else rng.uniform(0.03, 0.08)
  place = (x, rng.uniform(0.03, 0.1))
  height, turn = rng.uniform(0.035, 0.055), rng.normal(0, 0.25)
  lead = texture.lettering(grid, study.marker, at=place, height=height, turn=turn)
  if study.view == "AP" and rng.random() < 0.5:
    place = (0.02 if right else 0.8, rng.uniform(0.04, 0.2))
    text = "PORTABLE" if rng.random() < 0.6 else "AP"
    lead = lead + texture.lettering(grid, text, at=place, height=0.022, turn=0.0)
  return image + (0.97 - image) * np.minimum(lead, 1)


def _collimate(rng: np.random.Generator, image: np.ndarray, study: Study) -> np.ndarray:
  """Closes the beam's diaphragm on some sides, leaving a black or white border."""
  inset = rng.uniform(-0.05, 0.045, 4)
  slope = rng.normal(0, 0.008, 4)
  if not study.border:
    return image
  line = (np.arange(len(image), dtype=np.float32) + 0.5) / len(image)
  across, down = line[None, :], line[:, None]
  near = (across, 1 - across, down, 1 - down)
  along = (down, down, across, across)
  open_ = np.ones_like(image)
  for edge, way, depth, lean in zip(near, along, inset, slope, strict=True):
    open_ = open_ * ramp(edge - depth - lean * way, 1.5 / len(image))
  border = 0.02 if study.border == 1 else 0.93
  return border + (image - border) * open_
