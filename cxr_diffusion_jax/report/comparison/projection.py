"""Features on a plane that is fitted on the real images and used for all.

real [n d] -> PCA, and UMAP where it is installed, fitted on real features alone
generated [m d] -> [m 2] on that plane

McInnes et al., "UMAP", 2018: neighbours are meaningful, large distances are not.
"""

from collections.abc import Callable, Mapping
import dataclasses
import importlib.util

import numpy as np

# A plane needs three points; features of fewer images are not shown.
MINIMUM = 3


Transform = Callable[[np.ndarray], object]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
  """Positions of images on a plane.

  Attributes:
    method: "PCA" or "UMAP".
    real: [n 2]. of_paths: path's name -> [m 2].
    axes: names of both axes.
  """

  method: str
  real: np.ndarray
  of_paths: Mapping[str, np.ndarray]
  axes: tuple[str, str]


def planes(real: np.ndarray, generated: Mapping[str, np.ndarray]) -> list[Plane]:
  """Returns the plane of each available method.

  Args:
    real: [n d], n of `MINIMUM` or more.
    generated: path's name -> [m d].

  Raises:
    ValueError: features of another width, or too few.
  """
  if len(real) < MINIMUM:
    raise ValueError(f"features of {len(real)} real images, not {MINIMUM} or more")
  for name, features in generated.items():
    if features.shape[1:] != real.shape[1:]:
      raise ValueError(f"{name}: features {features.shape}, real ones {real.shape}")

  def plane(method: str, transform: Transform, axes: tuple[str, str]) -> Plane:
    of_paths = {k: np.asarray(transform(v)) for k, v in generated.items()}
    return Plane(
      method=method, real=np.asarray(transform(real)), of_paths=of_paths, axes=axes
    )

  # Heavy to import.
  from sklearn import decomposition

  pca = decomposition.PCA(n_components=2, random_state=0).fit(real)
  # No variance, no share.
  first, second = np.nan_to_num(pca.explained_variance_ratio_)
  shares = (f"component 1 ({first:.0%})", f"component 2 ({second:.0%})")
  result = [plane("PCA", pca.transform, shares)]
  if has_umap():
    # Takes seconds to import; optional.
    import umap  # pyright: ignore[reportMissingImports]

    fit = umap.UMAP(n_neighbors=min(15, len(real) - 1), random_state=0, n_jobs=1).fit
    axes = ("first coordinate", "second coordinate")
    result.append(plane("UMAP", fit(real).transform, axes))
  return result


def has_umap() -> bool:
  """Whether the package umap-learn is installed."""
  return importlib.util.find_spec("umap") is not None
