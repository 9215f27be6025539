"""Worker processes that read batches end with the process that started them."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

READ = """
import multiprocessing, os, signal, threading, time
from absl import flags
import grain
import numpy as np
from cxr_diffusion_jax.data import read_ahead
flags.FLAGS.mark_as_parsed()

def read(i):
  from multiprocessing import resource_tracker
  register = resource_tracker.register
  def register_late(name, kind):
    print(name, flush=True)
    time.sleep(0.5)
    register(name, kind)
  if i == 20:
    resource_tracker.register = register_late
  return np.full(512, i)

batches = grain.MapDataset.range(10**6).map(read)
iterator = read_ahead.read_ahead(batches, 1, 1)

def send_signals():
  while not (workers := multiprocessing.active_children()):
    time.sleep(0.001)
  for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(workers[0].pid, number)

threading.Thread(target=send_signals).start()
batch = next(iterator)
send_signals()
for _ in range(9):
  batch = next(iterator)
print(batch.shm.name, batch[0], flush=True)
for _ in iterator:
  pass
"""


def test_workers_and_shared_memory_end_with_a_killed_process_and_at_no_other_signal(
  repository,
):
  process = subprocess.Popen(
    [sys.executable, "-c", READ],
    cwd=repository,
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
      # The next has been created, but is not registered yet.
      late = pathlib.Path("/dev/shm" + process.stdout.readline().strip())
      process.kill()
      # The worker and Python's resource tracker inherited the pipe: it ends with them.
      process.communicate(timeout=10)
      assert not shared.exists()
      assert not late.exists()
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
