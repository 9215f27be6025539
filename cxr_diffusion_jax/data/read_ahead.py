"""Reads batches ahead, in threads or in worker processes that end with their reader.

batches -> threads of this process | of `num_workers` processes -> iterator
"""

from collections.abc import Iterator
import multiprocessing
from multiprocessing import resource_tracker, shared_memory
import os
import signal
import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  import grain


# Those that a whole process group receives, at Ctrl-C or from a scheduler.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def read_ahead(
  batches: "grain.MapDataset", num_workers: int, num_threads: int
) -> Iterator[dict[str, np.ndarray]]:
  """Returns an iterator that prepares the next batches in advance.

  Args:
    num_workers: worker processes; 0 reads in threads of this process.
    num_threads: threads that read, in this process or in each worker.
  """
  import grain

  # One batch waiting for each thread: 64 images of 512 pixels take 64 MiB.
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
  dataset = batches.to_iter_dataset(options)
  if not num_workers:
    return iter(dataset)
  workers = grain.MultiprocessingOptions(num_workers=num_workers)
  return _from_workers(dataset.mp_prefetch(workers, worker_init_fn=_start_worker))


def _from_workers(dataset: "grain.IterDataset") -> Iterator[dict[str, np.ndarray]]:
  iterator = iter(dataset)
  # Unless it runs, the first worker starts it, which unblocks the signals.
  resource_tracker.ensure_running()
  # Workers, and the threads that start them, inherit this: a signal to the whole group
  # does not end them before `_start_worker`. The first batch comes after all starts.
  previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
  try:
    first = next(iterator)
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, previous)
  yield first
  yield from iterator


def _start_worker(index: int, count: int) -> None:
  """Lets worker `index` of `count` end with its reader, and at no other signal."""
  del index, count
  # The reader still takes batches until it has saved, and stops its workers itself.
  for number in _SIGNALS:
    signal.signal(number, signal.SIG_IGN)
  shared_memory.SharedMemory = _SharedMemory
  threading.Thread(target=_end_with_parent, daemon=True).start()


class _SharedMemory(shared_memory.SharedMemory):
  """Shared memory that exists only together with its entry in the resource tracker."""

  registering = threading.Lock()

  def __init__(self, *args, **kwargs):
    # A thread that ended between both would leave memory that nobody removes.
    with self.registering:
      super().__init__(*args, **kwargs)


def _end_with_parent() -> None:
  """Ends this process once its parent has ended, even by SIGKILL.

  Then Python's resource tracker sees its last user go, and removes the shared memory.
  Not by prctl(PR_SET_PDEATHSIG), which acts when the starting thread ends: Grain starts
  workers in threads of a pool.
  """
  if (parent := multiprocessing.parent_process()) is not None:
    parent.join()
    _SharedMemory.registering.acquire(timeout=5)
    os._exit(1)
