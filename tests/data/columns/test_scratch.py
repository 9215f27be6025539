"""Unfinished columns: kills, crashes and full disks only cost the work they hit."""

import itertools
import pathlib
import signal
import subprocess
import sys

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import array_records
from cxr_diffusion_jax.data.columns import column as columns
from cxr_diffusion_jax.data.columns import scratch as column_scratch
from cxr_diffusion_jax.data.columns import writer as column_writer
from tests.data.columns.toy_column import VALUES, batches_of, check_rows, content, write


def test_write_column_resumes_after_a_full_disk(tmp_path, monkeypatch):
  pwrite, calls = column_scratch.os.pwrite, itertools.count()

  def full(file, data, offset):
    if next(calls) >= 10:
      raise OSError(28, "No space left on device")
    return pwrite(file, data, offset)

  monkeypatch.setattr(column_scratch.os, "pwrite", full)
  with pytest.raises(errors.InputError, match=r"No space left .* MB free; fix"):
    write(tmp_path)
  monkeypatch.undo()
  check_rows(write(tmp_path))


class Crash(Exception):
  pass


@pytest.mark.parametrize("fatal", range(1, 5))
def test_write_column_resumes_between_shards_without_the_values(
  tmp_path, monkeypatch, fatal
):
  whole = content(write(tmp_path / "whole", batches=batches_of(list(VALUES))))
  older = write(tmp_path / "b", fingerprint="older")
  replace, calls = column_writer.os.replace, itertools.count(1)

  def crashing(source, target):
    # The renames: one shard a split into waiting, then both to their place.
    if next(calls) == fatal:
      raise Crash
    replace(source, target)

  for module in (column_writer, array_records):
    monkeypatch.setattr(module, "os", _Os(crashing))
  with pytest.raises(Crash):
    write(tmp_path / "b")
  monkeypatch.undo()
  # Until all shards wait, the older column is still whole.
  assert (columns.open_column(tmp_path / "b", "toy") == older) == (fatal <= 2)
  column = write(tmp_path / "b", batches=iter(()))
  assert content(column) == whole


class _Os:
  """The module os with another `replace`."""

  def __init__(self, replace):
    self.replace = replace

  def __getattr__(self, name):
    import os

    return getattr(os, name)


CHILD = """
import os, signal, sys
import numpy as np
from cxr_diffusion_jax.data.columns import column as columns
from cxr_diffusion_jax.data.columns import writer as column_writer

folder, kill_at = sys.argv[1], int(sys.argv[2])
ids = {"train": np.array([f"{i:03d}" for i in range(40)])}

def stream(wanted):
  print("wanted", -1 if wanted is None else len(wanted), flush=True)
  for number, start in enumerate(range(0, len(wanted), 4)):
    if number == kill_at:
      os.kill(os.getpid(), signal.SIGKILL)
    part = wanted[start : start + 4]
    yield part, np.stack([np.full((3,), float(one), np.float32) for one in part])

column_writer.write_column(
  folder, ids=ids, name="toy", shape=(3,), encoder="e", standin=False,
  fingerprint="f", batches=stream, flush_bytes=24,
)
print("done")
"""


def test_write_column_resumes_after_sigkill(tmp_path, repository):
  def run(kill_at):
    return subprocess.run(
      [sys.executable, "-c", CHILD, str(tmp_path), str(kill_at)],
      cwd=repository,
      capture_output=True,
      text=True,
      check=False,
    )

  killed = run(6)
  assert killed.returncode == -signal.SIGKILL
  assert killed.stdout.split() == ["wanted", "40"]
  assert columns.open_column(tmp_path, "toy") is None
  finished = run(100)
  assert finished.stdout.split() == ["wanted", "16", "done"], finished.stderr
  source = columns.open_column(tmp_path, "toy").source("train")
  assert [source[i].tolist() for i in range(40)] == [[i] * 3 for i in range(40)]


def test_scratch_of_other_ids_or_source_is_discarded(tmp_path):
  some = list(VALUES)[:9]
  with pytest.raises(errors.InputError, match="18 of 27"):
    write(tmp_path, batches=batches_of(some))
  others = {one: value + 1 for one, value in VALUES.items()}
  stream = batches_of(list(others), values=others)
  column = write(tmp_path, fingerprint="f1", batches=stream)
  check_rows(column, values=others)


def test_scratch_with_damaged_marks_only_loses_work(tmp_path):
  with pytest.raises(errors.InputError, match="have no embedding"):
    write(tmp_path, batches=batches_of(list(VALUES)[:9]))
  marks = pathlib.Path(tmp_path, "columns/toy/scratch/done.bin")
  marks.write_bytes(marks.read_bytes()[:5])
  check_rows(write(tmp_path))
