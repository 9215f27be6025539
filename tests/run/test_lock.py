"""A run's folder is written by one process at a time."""

import os
import subprocess
import sys

from etils import epath
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import lock

HOLD = """
import sys
from cxr_diffusion_jax.run import lock
with lock.hold(sys.argv[1]):
  print("held", flush=True)
  sys.stdin.read()
"""


def test_hold_names_the_process_that_holds_a_folder_until_it_ends(repository, tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, tmp_path],
    cwd=repository,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  with process:
    assert process.stdout.readline() == "held\n"
    with (
      pytest.raises(errors.InputError, match=f"in use by process {process.pid} on "),
      lock.hold(tmp_path),
    ):
      pass
    # A killed process leaves its file, and no lock.
    process.kill()
    process.wait()
  assert (tmp_path / lock.NAME).exists()
  with lock.hold(tmp_path):
    assert f'"pid": {os.getpid()}' in (tmp_path / lock.NAME).read_text()


def test_hold_does_not_lock_buckets(bucket):
  with lock.hold(f"{bucket}/run"):
    assert not epath.Path(f"{bucket}/run/{lock.NAME}").exists()
