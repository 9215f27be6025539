"""How well a map of where something is seen agrees with a box around it.

map [h w], box (x, y, width, height) in fractions of the image
  pointing game  the map's highest place lies in the box
  energy         share of the map's sum that lies in the box
  concentration  energy over the box's share of the image; 1 is an even map
  iou            of the box and the places above half of the maximum
  side           of boxes in one half of the image: more of the map lies in that half

Pointing game: Zhang et al. 2018, 1608.00507, section 4.1. Energy: Wang et al. 2020,
1910.01279, section 4.3.
"""

import numpy as np

NAMES = ("pointing_game", "energy", "concentration", "iou", "side")

# Places above this share of a map's maximum are compared with the box.
THRESHOLD = 0.5

# Boxes of other images that a map is compared with.
MAX_OTHERS = 256


def agreement(maps: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
  """Figures of each map and its own box.

  Args:
    maps: [m h w], 0 or more; a map of zeros points nowhere.
    boxes: [m 4] as fractions.

  Returns:
    `NAMES` -> [m]; side is nan of boxes that cross the middle of the image.
  """
  blocks = []
  for first in range(0, len(maps), MAX_OTHERS):
    block = slice(first, first + MAX_OTHERS)
    pairs = compare(maps[block], boxes[block])
    blocks.append({name: np.diagonal(of_pairs) for name, of_pairs in pairs.items()})
  return {name: np.concatenate([part[name] for part in blocks]) for name in NAMES}


def agreement_of_others(
  maps: np.ndarray, boxes: np.ndarray, images: np.ndarray, findings: np.ndarray
) -> dict[str, np.ndarray]:
  """Figures of each map, the mean over boxes of the same finding in other images.

  Args:
    maps: [m h w].
    boxes: [m 4].
    images: [m], which of them are of the same image.
    findings: [m].

  Returns:
    `NAMES` -> [m], nan where no other image has the finding.
  """
  means = {name: np.full(len(maps), np.nan) for name in NAMES}
  for finding in np.unique(findings):
    rows = np.flatnonzero(findings == finding)
    spread = np.linspace(0, len(rows) - 1, min(len(rows), MAX_OTHERS)).astype(int)
    others = rows[spread]
    apart = images[rows][:, None] != images[others][None]
    for name, of_pairs in compare(maps[rows], boxes[others]).items():
      counted = apart & np.isfinite(of_pairs)
      total = np.where(counted, of_pairs, 0).sum(axis=1)
      count = counted.sum(axis=1)
      means[name][rows] = np.where(count, total / np.maximum(count, 1), np.nan)
  return means


def compare(maps: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
  """Figures of every map with every box: `NAMES` -> [m b].

  A box covers parts of places at its border. The highest place counts as in the box
  where its middle is at most half a place outside: the map is no finer.

  Args:
    maps: [m h w], 0 or more.
    boxes: [b 4], (x, y, width, height) as fractions.
  """
  m, h, w = maps.shape
  flat = maps.reshape(m, -1).astype(np.float64)
  total = np.maximum(flat.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
  down = _covered(boxes[:, 1], boxes[:, 3], h)
  across = _covered(boxes[:, 0], boxes[:, 2], w)
  cover = (down[:, :, None] * across[:, None, :]).reshape(len(boxes), -1)
  energy = flat @ cover.T / total
  area = boxes[:, 2].astype(np.float64) * boxes[:, 3]
  above = (flat >= THRESHOLD * flat.max(axis=1, keepdims=True)) & (flat > 0)
  shared = above.astype(np.float64) @ cover.T
  union = above.sum(axis=1)[:, None] + cover.sum(axis=1) - shared
  y, x = np.divmod(flat.argmax(axis=1), w)
  points = _within(x, w, boxes[:, 0], boxes[:, 2])
  points &= _within(y, h, boxes[:, 1], boxes[:, 3])
  return {
    "pointing_game": (points & (flat.max(axis=1) > 0)[:, None]).astype(np.float64),
    "energy": energy,
    "concentration": energy / area,
    "iou": shared / union,
    "side": _side(flat.reshape(m, h, w), boxes),
  }


def _covered(start: np.ndarray, length: np.ndarray, count: int) -> np.ndarray:
  """How much of each of `count` places between 0 and 1 lies in [start, start + length].

  Returns:
    [b count] in [0, 1].
  """
  edges = np.arange(count) / count
  low = np.maximum(edges, start[:, None])
  high = np.minimum(edges + 1 / count, (start + length)[:, None])
  return np.clip((high - low) * count, 0, 1)


def _within(
  place: np.ndarray, count: int, start: np.ndarray, length: np.ndarray
) -> np.ndarray:
  """[m b] bool, whether places [m] of `count` lie between, half a place allowed."""
  middle = ((place + 0.5) / count)[:, None]
  slack = 0.5 / count
  return (middle >= start - slack) & (middle <= start + length + slack)


def _side(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """[m b], 1 where a map has more on the box's side, one half where equal, else 0."""
  half = maps.shape[2] // 2
  lean = maps[:, :, -half:].sum(axis=(1, 2)) - maps[:, :, :half].sum(axis=(1, 2))
  right, left = boxes[:, 0] >= 0.5, boxes[:, 0] + boxes[:, 2] <= 0.5
  sign = np.where(right, 1.0, np.where(left, -1.0, np.nan))
  return 0.5 + 0.5 * np.sign(lean)[:, None] * sign
