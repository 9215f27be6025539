"""The pixels' places in the patient, and the few shapes all else is built from.

pixel (column, row) --tilt, shift, zoom--> (x, y) --curve of y or of |x|--> border

A ray's length in a ball or cylinder is chord(r) = sqrt(1 - r^2) of its depth.
"""

import dataclasses

import numpy as np

from cxr_diffusion_jax.extras.phantom.anatomy import Study

# Curves are tabulated over this range, so finely that a step is under half a pixel.
_LOW, _HIGH = -0.15, 1.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
  """Canonical coordinates of every pixel's centre, [h w]."""

  x: np.ndarray  # f32, 0 at the midline and positive on the patient's left
  y: np.ndarray  # f32
  side_x: np.ndarray  # |x|
  left: np.ndarray  # x > 0
  row: np.ndarray  # index of y in a curve
  column: np.ndarray  # index of |x| in a curve
  positions: np.ndarray  # [s] where curves are tabulated
  pixel: float  # canonical length of a pixel
  field_cm: float  # cm in a canonical unit
  to_pixel: np.ndarray  # [2 3] affine map from (x, y, 1) to pixel (column, row)

  def curve(self, *knots: tuple[float, float]) -> np.ndarray:
    """Table [s] of a smooth curve through `(position, value)` knots, flat outside.

    Cubic Hermite pieces with finite-difference slopes; `along_y` or `along_x` read it.
    """
    at, value = np.array(knots, np.float32).T
    gap, rise = at[1:] - at[:-1], value[1:] - value[:-1]
    chords = rise / gap
    slope = np.concatenate(
      [
        chords[:1],
        (chords[:-1] * gap[1:] + chords[1:] * gap[:-1]) / (gap[1:] + gap[:-1]),
        chords[-1:],
      ]
    )
    positions = np.minimum(np.maximum(self.positions, at[0]), at[-1])
    i = np.searchsorted(at[1:-1], positions, "right")
    length = gap[i]
    s = (positions - at[i]) / length
    near, far = slope[i] * length, slope[i + 1] * length
    step = rise[i]
    # value + s near + s^2 (3 step - 2 near - far) + s^3 (near + far - 2 step)
    return value[i] + s * (
      near + s * (3 * step - 2 * near - far + s * (near + far - 2 * step))
    )

  def along_y(self, table: np.ndarray) -> np.ndarray:
    """Values [h w] of a curve of y."""
    return table.take(self.row)

  def along_x(self, table: np.ndarray) -> np.ndarray:
    """Values [h w] of a curve of |x|."""
    return table.take(self.column)

  def pick(self, right: float, left: float) -> np.ndarray:
    """[h w] with one number on each side of the patient."""
    return np.where(self.left, np.float32(left), np.float32(right))


def make_grid(study: Study, size: int) -> Grid:
  """The grid of a square image of `size` pixels, tilted and placed by `study`."""
  cos, sin = np.cos(study.tilt) * study.zoom, np.sin(study.tilt) * study.zoom
  line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
  across, down = (line - study.dx)[None, :], (line - study.dy)[:, None]
  x = (cos * across + sin * down).astype(np.float32)
  y = (cos * down - sin * across + 0.5).astype(np.float32)
  turn = np.array([[cos, -sin], [sin, cos]]) / study.zoom**2
  offset = np.array([0.5 + study.dx, 0.5 + study.dy]) - turn @ np.array([0, 0.5])
  side_x = np.abs(x)
  samples = 3 * size
  positions = (np.arange(samples, dtype=np.float32) + 0.5) * ((_HIGH - _LOW) / samples)
  positions = positions + np.float32(_LOW)
  return Grid(
    x=x,
    y=y,
    side_x=side_x,
    left=x > 0,
    row=_index(y, samples),
    column=_index(side_x, samples),
    positions=positions,
    pixel=study.zoom / size,
    field_cm=study.field_cm,
    to_pixel=np.concatenate([turn, offset[:, None]], axis=1) * size,
  )


def _index(values: np.ndarray, samples: int) -> np.ndarray:
  scaled = (values - _LOW) * (samples / (_HIGH - _LOW))
  return np.clip(scaled, 0, samples - 1).astype(np.intp)


def chord(ratio: np.ndarray) -> np.ndarray:
  """sqrt(1 - ratio^2), 0 outside: the ray's length in a unit ball or cylinder."""
  return np.sqrt(np.maximum(1 - ratio * ratio, 0))


def ramp(values: np.ndarray, width: float) -> np.ndarray:
  """A linear step from 0 to 1 across `width`, centred on 0."""
  return np.clip(values / width + 0.5, 0, 1)
