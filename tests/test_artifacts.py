"""Files are there whole or not at all, on local disks and in buckets."""

import numpy as np
import pytest

from cxr_diffusion_jax import artifacts, errors


def test_load_or_make_makes_an_array_once(tmp_path):
  path, calls = tmp_path / "folder" / "a.npy", []

  def make():
    calls.append(1)
    return np.arange(3.0)

  for _ in range(2):
    np.testing.assert_array_equal(artifacts.load_or_make(path, make), np.arange(3.0))
  assert len(calls) == 1
  assert [one.name for one in path.parent.iterdir()] == ["a.npy"]
  artifacts.load_or_make(None, make)
  assert len(calls) == 2


def test_load_or_make_leaves_no_file_after_an_error(tmp_path):
  with pytest.raises(ZeroDivisionError):
    artifacts.load_or_make(tmp_path / "a.npy", lambda: np.array(1 // 0))
  assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
  artifacts.write_text(tmp_path / "a.txt", "old")

  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(artifacts.os, "fsync", fail)
  with (
    pytest.raises(errors.InputError, match="No space left"),
    artifacts.disk_errors(tmp_path),
  ):
    artifacts.write_text(tmp_path / "a.txt", "new")
  assert (tmp_path / "a.txt").read_text() == "old"


def test_read_json_names_a_file_that_is_absent_or_damaged(tmp_path):
  artifacts.write_json(tmp_path / "a.json", {"b": [1, None]})
  assert artifacts.read_json(tmp_path / "a.json") == {"b": [1, None]}
  with pytest.raises(errors.InputError, match=r"no such file.*absent"):
    artifacts.read_json(tmp_path / "absent.json")
  (tmp_path / "a.json").write_text("{")
  with pytest.raises(errors.InputError, match=r"a\.json is not readable JSON"):
    artifacts.read_json(tmp_path / "a.json")


def test_buckets_are_written_and_read(bucket):
  artifacts.write_json(f"{bucket}/run/a.json", {"b": 1})
  assert artifacts.read_json(f"{bucket}/run/a.json") == {"b": 1}
  made = artifacts.load_or_make(f"{bucket}/run/a.npy", lambda: np.ones(2))
  again = artifacts.load_or_make(f"{bucket}/run/a.npy", lambda: np.zeros(2))
  np.testing.assert_array_equal(made, again)
  assert artifacts.is_remote(bucket)
  assert not artifacts.is_remote("runs/a")
