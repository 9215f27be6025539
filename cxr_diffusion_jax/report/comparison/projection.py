"""Features on a plane: the same plane for all, and it is that of the real images.

real [n d] -> PCA, and UMAP where it is installed, fitted on real features alone
generated [m d] -> [m 2] on that plane

McInnes et al., "UMAP", 2018, tells neighbours; distances far apart mean little there.
"""

from collections.abc import Mapping
import dataclasses
import importlib.util

import numpy as np
from sklearn import decomposition

# A plane needs three points; features of fewer images are not shown.
MINIMUM = 3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
  """Where images lie.

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
  """Returns the plane of each method at hand.

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
  pca = decomposition.PCA(n_components=2, random_state=0).fit(real)
  shares = [f"component {i + 1} ({x:.0%})" for i, x in enumerate(_shares(pca))]
  made = [_plane("PCA", pca, real, generated, (shares[0], shares[1]))]
  if has_umap():
    # Seconds to import, and not everywhere.
    import umap

    neighbours = min(15, len(real) - 1)
    fitted = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit(real)
    names = ("first coordinate", "second coordinate")
    made.append(_plane("UMAP", fitted, real, generated, names))
  return made


def has_umap() -> bool:
  """Whether the package umap-learn is installed."""
  return importlib.util.find_spec("umap") is not None


def _plane(method, fitted, real, generated, axes) -> Plane:
  return Plane(
    method=method,
    real=np.asarray(fitted.transform(real)),
    of_paths={k: np.asarray(fitted.transform(v)) for k, v in generated.items()},
    axes=axes,
  )


def _shares(pca: decomposition.PCA) -> np.ndarray:
  """Of the variance, also where there is none."""
  return np.nan_to_num(pca.explained_variance_ratio_)
