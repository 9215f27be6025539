"""Arrays are made once, and a file is there whole or not at all."""

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation import kept_arrays


def test_an_array_is_made_once(tmp_path):
  path, calls = tmp_path / "folder" / "a.npy", []

  def make():
    calls.append(1)
    return np.arange(3.0)

  for _ in range(2):
    np.testing.assert_array_equal(kept_arrays.load_or_make(path, make), np.arange(3.0))
  assert len(calls) == 1
  assert [one.name for one in path.parent.iterdir()] == ["a.npy"]
  kept_arrays.load_or_make(None, make)
  assert len(calls) == 2


def test_what_could_not_be_made_leaves_no_file(tmp_path):
  with pytest.raises(ZeroDivisionError):
    kept_arrays.load_or_make(tmp_path / "a.npy", lambda: np.array(1 // 0))
  assert not list(tmp_path.iterdir())
