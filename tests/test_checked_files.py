"""Damage is named with its file; arrays are made once, and again if damaged."""

import json

import numpy as np
import pytest

from cxr_diffusion_jax import checked_files, errors


def test_load_or_make_makes_an_array_once(tmp_path):
  path, calls = tmp_path / "folder" / "a.npz", []

  def make():
    calls.append(1)
    return np.arange(3.0)

  for _ in range(2):
    np.testing.assert_array_equal(
      checked_files.load_or_make(path, make), np.arange(3.0)
    )
  assert len(calls) == 1
  assert [one.name for one in path.parent.iterdir()] == ["a.npz"]
  checked_files.load_or_make(None, make)
  assert len(calls) == 2


def test_load_or_make_leaves_no_file_after_an_error(tmp_path):
  with pytest.raises(ZeroDivisionError):
    checked_files.load_or_make(tmp_path / "a.npz", lambda: np.array(1 // 0))
  assert not list(tmp_path.iterdir())


def test_load_or_make_makes_a_damaged_array_again(tmp_path, caplog):
  path, values = tmp_path / "a.npz", np.arange(1000.0)
  checked_files.load_or_make(path, lambda: values)
  content = bytearray(path.read_bytes())
  content[4000] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.InputError, match=r"a\.npz is absent or damaged"):
    checked_files.read(path)
  result = checked_files.load_or_make(path, lambda: values)
  np.testing.assert_array_equal(result, values)
  assert "it is made again" in caplog.text
  np.testing.assert_array_equal(checked_files.read(path), values)


def test_load_or_make_keeps_arrays_in_buckets(bucket):
  result = checked_files.load_or_make(f"{bucket}/run/a.npz", lambda: np.ones(2))
  again = checked_files.load_or_make(f"{bucket}/run/a.npz", lambda: np.zeros(2))
  np.testing.assert_array_equal(result, again)


def test_read_json_refuses_what_was_not_written(tmp_path):
  path, values = tmp_path / "a.json", {"b": [1, 2.5, None], "c": {"d": "ß"}}
  checked_files.write_json(path, values)
  assert checked_files.read_json(path) == values
  text = path.read_text()
  path.write_text(text.replace("2.5", "2.6"))
  with pytest.raises(errors.InputError, match=r"a\.json is .*\(not as it was written"):
    checked_files.read_json(path)
  # An earlier version wrote no checksum.
  path.write_text(json.dumps(values))
  assert checked_files.read_json(path) == values
  path.write_text("[]")
  with pytest.raises(errors.InputError, match="no JSON object"):
    checked_files.read_json(path)


def test_read_npz_names_an_array_that_is_absent(tmp_path):
  """A flipped bit in a zip file's directory renames an entry."""
  path = tmp_path / "a.npz"
  np.savez(path, value=np.arange(3))
  with pytest.raises(errors.InputError, match=r"a\.npz is absent or damaged \(no valu"):
    checked_files.read_npz(path, ["value", "values"])
  assert checked_files.read_npz(path, ["values"], optional=True) == {}
