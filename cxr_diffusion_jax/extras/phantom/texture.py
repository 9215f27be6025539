"""Random texture: smooth noise, branching vessels, and thin things drawn as points.

A thin tube of radius r crosses a pixel of area p^2 with the mean length
pi r^2 ds / p^2, so vessels are splat as weighted points and blurred by their radius.
"""

import functools

import numpy as np

from cxr_diffusion_jax.extras.phantom.grid import Grid

# Strokes of the letters that markers use, on a unit square with y down.
_STROKES = {
  "A": "0,1 .5,0 1,1|.2,.65 .8,.65",
  "B": "0,0 0,1 .9,.85 .9,.6 0,.5|0,0 .8,.1 .8,.4 0,.5",
  "E": "1,0 0,0 0,1 1,1|0,.5 .8,.5",
  "L": "0,0 0,1 .8,1",
  "O": "0,0 1,0 1,1 0,1 0,0",
  "P": "0,1 0,0 1,.1 1,.4 0,.5",
  "R": "0,1 0,0 1,.1 1,.4 0,.5|.4,.5 1,1",
  "T": "0,0 1,0|.5,0 .5,1",
}


@functools.lru_cache(maxsize=64)
def _basis(size: int, cells: int) -> np.ndarray:
  """[size cells] Gaussian bumps with rows of unit length."""
  at = (np.arange(size) + 0.5) / size * cells
  centre = np.arange(-1, cells + 2)
  weight = np.exp(-0.5 * ((at[:, None] - centre[None, :]) / 0.6) ** 2)
  return (weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
  """Gaussian noise [size size] of unit variance, `cells` bumps across."""
  basis = _basis(size, cells)
  grid = rng.standard_normal((basis.shape[1],) * 2, dtype=np.float32)
  return _product(_product(basis, grid), basis.T)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Matrix product in blocks of rows.

  Above 2^18 multiplications OpenBLAS wakes its threads, whose spinning costs more than
  these small products, and several times more on a machine that is busy.
  """
  rows = max(1, 2**18 // right.size)
  blocks = [left[i : i + rows] @ right for i in range(0, len(left), rows)]
  return np.concatenate(blocks)


def blur(field: np.ndarray, sigma: float) -> np.ndarray:
  """`field` [h w] under a Gaussian of `sigma` pixels, edges repeated."""
  if sigma < 0.3:
    return field
  radius = int(np.ceil(2.5 * sigma))
  taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  taps = (taps / taps.sum()).astype(np.float32)
  for axis in (0, 1):
    length = field.shape[axis]
    padding = [(0, 0), (0, 0)]
    padding[axis] = (radius, radius)
    padded = np.moveaxis(np.pad(field, padding, mode="edge"), axis, 0)
    total = taps[0] * padded[:length]
    for i in range(1, len(taps)):
      total += taps[i] * padded[i : i + length]
    field = np.moveaxis(total, 0, axis)
  return field


def spread(field: np.ndarray, cells: int = 16) -> np.ndarray:
  """`field` [h w] blurred very widely, as scattered photons are."""
  size = len(field)
  basis = _basis(size, cells)
  up = basis / basis.sum(axis=1, keepdims=True)
  down = (basis / basis.sum(axis=0, keepdims=True)).T
  low = _product(_product(down, field), down.T)
  return _product(_product(up, low), up.T)


def splat(grid: Grid, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Adds `weights` [n] at canonical `points` [n 2] bilinearly into [h w]."""
  size = len(grid.x)
  across, down = (
    row[0] * points[:, 0] + row[1] * points[:, 1] + (row[2] - 0.5)
    for row in grid.to_pixel
  )
  keep = (across > 0) & (across < size - 1) & (down > 0) & (down < size - 1)
  across, down, weights = across[keep], down[keep], weights[keep]
  column, line = across.astype(np.intp), down.astype(np.intp)
  first = line * size + column
  right, down = across - column, down - line
  index = np.concatenate([first, first + 1, first + size, first + size + 1])
  weight = np.concatenate([
    weights * (1 - right) * (1 - down), weights * right * (1 - down),
    weights * (1 - right) * down, weights * right * down,
  ])  # fmt: skip
  field = np.bincount(index, weight, minlength=size * size)
  return field.reshape(size, size).astype(np.float32)


def tube_weight(
  grid: Grid, radius_cm: np.ndarray | np.float32, step: np.ndarray
) -> np.ndarray:
  """cm of path per pixel for a tube's point of canonical length `step`."""
  return (
    np.pi * radius_cm**2 * (step * grid.field_cm) / (grid.pixel * grid.field_cm) ** 2
  )


def vessels(
  rng: np.random.Generator, grid: Grid, *, right: tuple, left: tuple
) -> np.ndarray:
  """cm of vessel [h w] in two trees that grow from the hila at `right`, `left`."""
  total = np.zeros_like(grid.x)
  stems = 7
  fan = np.linspace(-1.25, 1.6, stems)
  angle = np.concatenate([np.pi - fan, fan]) + rng.normal(0, 0.1, 2 * stems)
  start = np.repeat(np.array([right, left], float), stems, axis=0)
  start = start + rng.normal(0, 0.014, start.shape)
  start[:, 1] += 0.035 * np.sin(angle)
  radius = rng.uniform(0.25, 0.38, 2 * stems)
  longer = 1 + 0.25 * np.maximum(np.sin(angle), 0)
  length = rng.uniform(0.045, 0.075, 2 * stems) * longer
  classes: dict[int, list] = {0: [], 1: [], 2: []}
  for generation in range(6):
    num_points = max(2, int(1.2 * length.mean() / grid.pixel))
    s = (np.arange(num_points) + 0.5) / num_points
    curl = rng.normal(0, 0.7, len(angle))[:, None] * (s - 0.5)
    heading = angle[:, None] + curl
    step = length / num_points
    walk = np.stack([np.cos(heading), np.sin(heading)], -1) * step[:, None, None]
    path = start[:, None] + np.cumsum(walk, axis=1)
    taper = radius[:, None] * (1.05 - 0.2 * s)
    weight = tube_weight(grid, taper, step[:, None])
    classes[generation // 2].append((path.reshape(-1, 2), weight.ravel()))
    start = np.repeat(path[:, -1], 2, axis=0)
    fork = rng.uniform(0.1, 0.7, (len(angle), 2)) * np.array([-1, 1])
    angle = (angle[:, None] + fork).ravel()
    radius = np.repeat(radius, 2) * rng.uniform(0.68, 0.92, len(start))
    length = np.repeat(length, 2) * rng.uniform(0.62, 0.98, len(start))
  for level, radius_cm in enumerate((0.3, 0.17, 0.1)):
    paths, weights = zip(*classes[level], strict=True)
    field = splat(grid, np.concatenate(paths), np.concatenate(weights))
    total += blur(field, 0.6 * radius_cm / (grid.pixel * grid.field_cm))
  return total


def lettering(
  grid: Grid, text: str, *, at: tuple[float, float], height: float, turn: float
) -> np.ndarray:
  """`text` [h w], about 1 inside the strokes, from `at` on in image fractions."""
  size = len(grid.x)
  pieces = []
  for number, letter in enumerate(text):
    for stroke in _STROKES[letter].split("|"):
      corners = np.array([p.split(",") for p in stroke.split()], float)
      n = len(corners)
      s = np.linspace(0, n - 1, max(4, int(3 * height * size) * n))
      path = np.stack([np.interp(s, np.arange(n), axis) for axis in corners.T], -1)
      length = np.abs(np.diff(corners, axis=0)).sum() * height * size
      weight = np.full(len(s), length / len(s))
      pieces.append((path * (0.6, 1) + (0.95 * number, 0), weight))
  path = np.concatenate([piece[0] for piece in pieces]) * height
  cos, sin = np.cos(turn), np.sin(turn)
  path = (path @ np.array([[cos, sin], [-sin, cos]]) + at) * size
  weights = np.concatenate([piece[1] for piece in pieces])
  thick = max(0.16 * height * size, 0.8)
  inverse = np.linalg.inv(np.vstack([grid.to_pixel, [0, 0, 1]]))
  canonical = path @ inverse[:2, :2].T + inverse[:2, 2]
  field = blur(splat(grid, canonical, weights * thick), 0.4 * thick)
  return np.minimum(field * 1.3, 1)


def wires(rng: np.random.Generator, grid: Grid, count: int) -> np.ndarray:
  """cm of metal in `count` leads that cross the chest, each with an electrode."""
  s = np.linspace(0, 1, 3 * len(grid.x))[:, None]
  total = np.zeros_like(grid.x)
  for _ in range(count):
    side = rng.choice((-1, 1))
    knots = np.array([[0.5 * side, 0], [0.2 * side, 0], [0.0, 0], [0.0, 0]])
    knots[:, 1] = rng.uniform(0.0, 1.0, 4)
    knots[2:, 0] = rng.uniform(-0.35, 0.35, 2)
    path = (1 - s) ** 3 * knots[0] + 3 * (1 - s) ** 2 * s * knots[1]
    path = path + 3 * (1 - s) * s**2 * knots[2] + s**3 * knots[3]
    step = np.linalg.norm(np.gradient(path, axis=0), axis=1)
    total += splat(grid, path, tube_weight(grid, np.float32(0.1), step))
    pad = np.hypot(grid.x - knots[3, 0], grid.y - knots[3, 1])
    total += 0.25 * (pad < 0.014) + 0.5 * (pad < 0.006)
  return blur(total, 0.12 / (grid.pixel * grid.field_cm))
