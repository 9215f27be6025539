"""Arrays are made once, and again if their file is damaged."""

import numpy as np
import pytest

from cxr_diffusion_jax import array_files, errors


def test_load_or_make_makes_an_array_once(tmp_path):
  path, calls = tmp_path / "folder" / "a.npz", []

  def make():
    calls.append(1)
    return np.arange(3.0)

  for _ in range(2):
    np.testing.assert_array_equal(array_files.load_or_make(path, make), np.arange(3.0))
  assert len(calls) == 1
  assert [one.name for one in path.parent.iterdir()] == ["a.npz"]
  array_files.load_or_make(None, make)
  assert len(calls) == 2


def test_load_or_make_leaves_no_file_after_an_error(tmp_path):
  with pytest.raises(ZeroDivisionError):
    array_files.load_or_make(tmp_path / "a.npz", lambda: np.array(1 // 0))
  assert not list(tmp_path.iterdir())


def test_load_or_make_makes_a_damaged_array_again(tmp_path, caplog):
  path, values = tmp_path / "a.npz", np.arange(1000.0)
  array_files.load_or_make(path, lambda: values)
  content = bytearray(path.read_bytes())
  content[4000] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.InputError, match=r"a\.npz is absent or damaged"):
    array_files.read(path)
  result = array_files.load_or_make(path, lambda: values)
  np.testing.assert_array_equal(result, values)
  assert "it is made again" in caplog.text
  np.testing.assert_array_equal(array_files.read(path), values)


def test_load_or_make_keeps_arrays_in_buckets(bucket):
  result = array_files.load_or_make(f"{bucket}/run/a.npz", lambda: np.ones(2))
  again = array_files.load_or_make(f"{bucket}/run/a.npz", lambda: np.zeros(2))
  np.testing.assert_array_equal(result, again)
