"""Images of a comparison: the same conditions by each path, nearest training images.

Comparison -> {name: images}, one row each, and figures/
  {samples,neighbours,elicited}.{svg,png}
"""

from collections.abc import Iterable, Mapping, Sequence

from etils import epath
import numpy as np

from cxr_diffusion_jax.evaluation.comparison.data import Comparison
from cxr_diffusion_jax.report.comparison import drawing, figures

# Pixels of all images of a section together: about a byte each, and a third for base64.
BUDGET = 1_200_000

# Before the name of a path whose conditions are made from other images than "real".
REFERENCE = "reference of "

# Pairs that are shown of each path, at most.
PAIRS = 6


def by_name(comparison: Comparison) -> Mapping[str, np.ndarray]:
  """Returns the rows of the samples: real images, then those of each path.

  Raises:
    ValueError: the numbers of images, captions and conditions differ.
  """
  k = len(comparison.shown)
  rows: dict[str, np.ndarray] = {}
  for path in comparison.paths:
    if len(path.references):
      rows[f"{REFERENCE}{path.name}"] = np.asarray(path.references)
    rows[path.name] = path.images
  for name, values in {"captions": comparison.captions, **rows}.items():
    if len(values) != k:
      raise ValueError(f"{name}: {len(values)}, not {k} as conditions are shown")
  return {"real": comparison.shown, **rows} if k else {}


def side(num: int) -> int:
  """Pixels of the side of each of `num` images."""
  return max(64, int((BUDGET / max(num, 1)) ** 0.5))


def draw(comparison: Comparison, folder: epath.Path) -> None:
  """Writes the figures of samples and of nearest training images, if any."""
  rows = by_name(comparison)
  if rows:
    drawing.write(
      folder,
      "samples",
      (1.1 * len(comparison.shown) + _margin(rows), 1.15 * len(rows) + 0.4),
      lambda figure: figures.pictures(
        figure,
        [list(images) for images in rows.values()],
        list(rows),
        [caption.replace(", ", ",\n") for caption in comparison.captions],
      ),
    )
  for name in ("neighbours", "elicited"):
    of_paths = {path.name: getattr(path, name)[:PAIRS] for path in comparison.paths}
    _draw_pairs(
      {path: pairs for path, pairs in of_paths.items() if len(pairs)}, folder, name
    )


def _draw_pairs(
  near: Mapping[str, Sequence[np.ndarray]], folder: epath.Path, name: str
) -> None:
  """Writes a row of pairs of each path."""
  if not near:
    return
  num = max(map(len, near.values()))
  drawing.write(
    folder,
    name,
    (2.1 * num + _margin(near), 1.1 * len(near) + 0.2),
    lambda figure: figures.pictures(
      figure, [_side_by_side(pairs, num) for pairs in near.values()], list(near), []
    ),
  )


def _side_by_side(pairs: Sequence[np.ndarray], num: int) -> Sequence[np.ndarray]:
  """[m 2 h w 1] -> num images [h 2w 1]; white where there are fewer pairs."""
  joined = [np.concatenate(list(pair), axis=1) for pair in pairs]
  return joined + [np.full_like(joined[0], 255)] * (num - len(joined))


def _margin(names: Iterable[str]) -> float:
  """Inches for names at the left of a figure."""
  return 0.4 + 0.085 * max(len(name) for name in names)
