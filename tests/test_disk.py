"""A disk's faults become one line with the file, the free space and what to do."""

import errno
import os

import pytest

from cxr_diffusion_jax import artifacts, disk, errors


def test_reporting_names_the_file_the_free_space_and_what_to_do(tmp_path):
  with (
    pytest.raises(errors.InputError) as refusal,
    disk.reporting(tmp_path / "absent", instead="name another --out"),
  ):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  free = f"{disk.shutil.disk_usage(tmp_path).free / 1e6:,.0f}"
  assert f"{tmp_path / 'absent'}: No space left on device, " in str(refusal.value)
  assert free[:-2] in str(refusal.value)
  assert "free disk space or change its rights, or name another --out" in str(
    refusal.value
  )


def test_reporting_knows_the_faults_that_libraries_state_in_their_texts(tmp_path):
  text = "RESOURCE_EXHAUSTED: write() failed: No space left on device [source: ...]"
  with (
    pytest.raises(errors.InputError, match=r"No space left on device, .* MB free"),
    disk.reporting(tmp_path),
  ):
    raise RuntimeError(text)


@pytest.mark.parametrize(
  "error", [ValueError("x"), FileNotFoundError(2, "No such file"), BlockingIOError(11)]
)
def test_reporting_lets_other_errors_pass(error, tmp_path):
  with pytest.raises(type(error)) as passed, disk.reporting(tmp_path):
    raise error
  assert passed.value is error


def test_write_bytes_leaves_no_part_of_a_file_on_a_full_disk(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(artifacts.os, "fsync", fail)
  with (
    pytest.raises(errors.InputError, match=rf"{tmp_path}/a\.txt: No space left"),
    disk.reporting("elsewhere"),
  ):
    artifacts.write_text(tmp_path / "a.txt", "new")
  assert not [*tmp_path.iterdir()]
