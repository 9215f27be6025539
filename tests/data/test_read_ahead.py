"""Worker processes that read batches end with the process that started them."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

READ = """
import multiprocessing, os, signal, sys
from absl import flags
import grain
import numpy as np
from cxr_diffusion_jax.data import read_ahead
flags.FLAGS.mark_as_parsed()
batches = grain.MapDataset.range(10**6).map(lambda i: np.full(512, i))
iterator = iter(read_ahead.read_ahead(batches, 1, 1))
batch = next(iterator)
os.kill(multiprocessing.active_children()[0].pid, signal.SIGINT)
for _ in range(9):
  batch = next(iterator)
print(batch.shm.name, batch[0], flush=True)
sys.stdin.read()
"""


def test_workers_and_shared_memory_end_with_a_killed_process_and_not_at_ctrl_c(
  repository,
):
  process = subprocess.Popen(
    [sys.executable, "-c", READ],
    cwd=repository,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  try:
    with process:
      assert process.stdout is not None
      name, value = process.stdout.readline().split()
      assert value == "9"
      shared = pathlib.Path("/dev/shm", name)
      assert shared.exists() == (sys.platform == "linux")
      process.kill()
      # The worker and Python's resource tracker inherited the pipe: it ends with them.
      process.communicate(timeout=10)
      assert not shared.exists()
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
