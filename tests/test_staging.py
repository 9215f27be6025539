"""Temporary folders: those of killed processes are removed, and no others."""

import os
import tempfile

import pytest

from cxr_diffusion_jax import staging


@pytest.fixture
def place(tmp_path, monkeypatch):
  """The system's folder of temporary files."""
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  return tmp_path


def test_temporary_folder_removes_only_unused_folders_of_its_name(place):
  (place / ".cxr-a-old.partial" / "inner").mkdir(parents=True)
  (place / ".cxr-b-old.partial").mkdir()
  with staging.temporary_folder(".cxr-a-") as first:
    with staging.temporary_folder(".cxr-a-") as second:
      names = {path.name for path in place.iterdir()}
      assert names == {".cxr-b-old.partial", first.name, second.name}
    assert first.is_dir()
  assert [path.name for path in place.iterdir()] == [".cxr-b-old.partial"]


def test_temporary_folder_follows_no_link_and_waits_for_no_pipe(place):
  target = place / "mine"
  target.mkdir()
  (target / "a.txt").write_text("1")
  (place / ".cxr-link.partial").symlink_to(target)
  os.mkfifo(place / ".cxr-pipe.partial")
  (place / ".cxr-file.partial").write_text("1")
  with staging.temporary_folder(".cxr-"):
    pass
  assert (target / "a.txt").read_text() == "1"
  assert len([*place.iterdir()]) == 4
