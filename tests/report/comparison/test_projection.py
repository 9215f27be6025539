"""Planes of features are fitted on real images alone."""

import sys
import types

import numpy as np
import pytest

from cxr_diffusion_jax.report.comparison import projection


def test_planes_fit_pca_on_real_images(monkeypatch):
  real = np.random.default_rng(0).normal(size=(40, 3)) * [5, 2, 0]
  far = real + np.array([0, 0, 100])
  monkeypatch.setattr(projection, "has_umap", lambda: False)
  (plane,) = projection.planes(real, {"far": far})
  # The third axis says nothing of real images, so it is not seen.
  np.testing.assert_allclose(plane.of_paths["far"], plane.real, atol=1e-9)
  assert plane.method == "PCA"
  with pytest.raises(ValueError, match="real ones"):
    projection.planes(real, {"a": real[:, :2]})
  with pytest.raises(ValueError, match="2 real images, not 3"):
    projection.planes(real[:2], {})


def test_planes_fit_umap_on_real_images(monkeypatch):
  fitted = []

  class First:
    """In place of UMAP: the first two numbers."""

    def __init__(self, **_):
      pass

    def fit(self, values):
      fitted.append(values)
      return self

    def transform(self, values):
      return values[:, :2]

  monkeypatch.setattr(projection, "has_umap", lambda: True)
  monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=First))
  real = np.random.default_rng(0).normal(size=(9, 3))
  _, plane = projection.planes(real, {"a": real + 1})
  assert plane.method == "UMAP"
  assert len(fitted) == 1
  np.testing.assert_array_equal(fitted[0], real)
  np.testing.assert_array_equal(plane.of_paths["a"], real[:, :2] + 1)
