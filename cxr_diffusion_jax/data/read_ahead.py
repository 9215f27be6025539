"""Reads batches ahead, in threads or in worker processes that end with their reader.

batches -> threads of this process | of `num_workers` processes -> iterator
"""

import multiprocessing
from multiprocessing import shared_memory
import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import grain


def read_ahead(
  batches: "grain.MapDataset", num_workers: int, num_threads: int
) -> "grain.IterDataset":
  """Returns a dataset whose iterators prepare the next batches in advance.

  Args:
    num_workers: worker processes; 0 reads in threads of this process.
    num_threads: threads that read, in this process or in each worker.
  """
  import grain

  # One batch waiting for each thread: 64 images of 512 pixels take 64 MiB.
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
  dataset = batches.to_iter_dataset(options)
  if num_workers:
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=num_workers),
      worker_init_fn=_start_worker,
    )
  return dataset


def _start_worker(index: int, count: int) -> None:
  """Lets worker `index` of `count` end with its reader, and at no other signal."""
  del index, count
  # Ctrl-C, `timeout` and schedulers signal the whole group; the reader still takes
  # batches until it has saved, and stops its workers itself.
  for number in (signal.SIGINT, signal.SIGTERM):
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
