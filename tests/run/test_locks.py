"""A folder is written by one process at a time."""

from concurrent import futures
import errno
import fcntl
import os
import pathlib
import subprocess
import sys
import time

from etils import epath
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import locks

HOLD = """
import sys
from cxr_diffusion_jax.run import locks
with locks.hold(sys.argv[1]):
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
      locks.hold(tmp_path),
    ):
      pass
    # A killed process leaves its file, and no lock.
    process.kill()
    process.wait()
  assert (tmp_path / locks.NAME).exists()
  with locks.hold(tmp_path):
    assert f'"pid": {os.getpid()}' in (tmp_path / locks.NAME).read_text()


def test_hold_does_not_lock_buckets(bucket):
  with locks.hold(f"{bucket}/run"):
    assert not epath.Path(f"{bucket}/run/{locks.NAME}").exists()


# Makes phantoms and their records when it is asked to, as `dataset.prepare` does.
PREPARE = """
import sys
from cxr_diffusion_jax.data.records import records
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import phantom
from cxr_diffusion_jax.run import locks
root, records_dir = sys.argv[1:]
settings = DataSettings(root=root, records_dir=records_dir, image_size=32)
with locks.make_alone(settings.records_folder, "records"):
  print("held", flush=True)
  sys.stdin.readline()
  phantom.make_tree(root, num_images=12, size=32, seed=0)
  records.prepare_records(settings)
"""


def test_prepare_waits_for_another_process_and_finds_its_records(
  repository, tmp_path, caplog
):
  caplog.set_level("INFO")
  places = [str(tmp_path / "tree"), str(tmp_path / "records")]
  settings = DataSettings(
    root=places[0], records_dir=places[1], image_size=32, phantom_images=12
  )
  progress = []
  with (
    futures.ThreadPoolExecutor(1) as pool,
    subprocess.Popen(
      [sys.executable, "-c", PREPARE, *places],
      cwd=repository,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    ) as other,
  ):
    assert other.stdout.readline() == "held\n"
    prepared = pool.submit(
      dataset_lib.prepare,
      settings,
      conditioning.Needs(),
      progress=lambda *done: progress.append(done),
    )
    while "waiting" not in caplog.text and not prepared.done():
      time.sleep(0.01)
    assert f"waiting for process {other.pid} on" in caplog.text
    assert not prepared.done()
    other.communicate("\n")
    dataset = prepared.result()
  assert other.returncode == 0
  assert sum(dataset.records.num_rows.values()) == 12
  # It made nothing itself.
  assert progress == []


def test_make_alone_reads_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
  records = tmp_path / "records"
  with locks.make_alone(records, "records"):
    (records / "image").write_text("pixels")
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

  def read_only(self, *arguments, **options):
    raise OSError(errno.EROFS, "Read-only file system", str(self))

  with monkeypatch.context() as patched:
    # Rights do not stop root.
    patched.setattr(pathlib.Path, "open", read_only)
    patched.setattr(fcntl, "lockf", None)
    with locks.make_alone(records, "records"):
      assert sorted(os.listdir(records)) == ["image", "records.lock.json"]
  assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
  # One that cannot even be created.
  with locks.make_alone(records / "image" / "below", "records"):
    assert (records / "image").read_text() == "pixels"
  # An error inside is the caller's, whether or not there is a lock.
  with (
    pytest.raises(OSError, match="no room"),
    locks.make_alone(records / "image" / "below", "records"),
  ):
    raise OSError("no room")
