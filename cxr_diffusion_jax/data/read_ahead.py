"""Reads batches ahead, in threads or in worker processes that end with their reader.

batches -> threads of this process | of `num_workers` processes -> iterator
"""

import multiprocessing
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
  """Lets worker `index` of `count` end with its reader, and not at Ctrl-C."""
  del index, count
  # Ctrl-C reaches the whole group; the reader still takes batches until it has saved.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  """Ends this process once its parent has ended, even by SIGKILL.

  Then Python's resource tracker sees its last user go, and removes the shared memory.
  Not by prctl(PR_SET_PDEATHSIG), which acts when the starting thread ends: Grain starts
  workers in threads of a pool.
  """
  if (parent := multiprocessing.parent_process()) is not None:
    parent.join()
    os._exit(1)
