"""Measures of a thorax, and how its lesions deform them.

patient, study -> Geometry -> pushed (effusion), pulled (atelectasis), stretched ...
"""

import dataclasses

from cxr_diffusion_jax.extras.phantom import anatomy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
  """Measures of the thorax after its lesions have deformed it.

  Attributes:
    half_width, apex: as in `Patient`. ctr: cardiothoracic ratio aimed at.
    shift: of the mediastinum. dome_right, dome_left: y of the diaphragm's tops.
    arch: height of the domes above the costophrenic angles. density: of the lung.
    vessel_gain: 1 normal. rib_spacing: of the ribs.
  """

  half_width: float
  apex: float
  ctr: float
  shift: float
  dome_right: float
  dome_left: float
  arch: float
  density: float
  vessel_gain: float
  rib_spacing: float


def make_geometry(patient: anatomy.Patient, study: anatomy.Study) -> Geometry:
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


def _deform(geometry: Geometry, lesion: anatomy.Lesion) -> Geometry:
  """`geometry` as changed by one lesion: pushed, pulled, stretched."""
  replace = dataclasses.replace
  extent, side = lesion.extent, lesion.side
  match lesion.name:
    case "Cardiomegaly":
      return replace(geometry, ctr=0.585 + 0.11 * extent)
    case "Edema":
      return replace(
        geometry, vessel_gain=1.25, ctr=max(geometry.ctr, geometry.ctr * 0.9 + 0.055)
      )
    case "Effusion":
      return replace(
        geometry, shift=geometry.shift - side * 0.05 * max(extent - 0.6, 0)
      )
    case "Pneumothorax":
      return replace(
        geometry, shift=geometry.shift - side * 0.12 * max(extent - 0.55, 0)
      )
    case "Atelectasis":
      rise = 0.05 + 0.06 * extent
      return replace(
        geometry,
        shift=geometry.shift + side * (0.018 + 0.03 * extent),
        dome_right=geometry.dome_right - rise * (side == anatomy.RIGHT),
        dome_left=geometry.dome_left - rise * (side == anatomy.LEFT),
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
