"""What the processes of a run on several hosts agree on, and where they wait.

process 0 --value, file--> the others: the same value, the same folder?
"""

from collections.abc import Mapping
import contextlib
import json
import secrets
import time

from etils import epath
import jax

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.parallel import store as store_lib


def check_same(what: str, values: Mapping[str, object], fix: str) -> None:
  """Checks that all processes of a run have the same values.

  Args:
    what: names the values.
    values: of this process, as JSON takes them.
    fix: what the user can do about other values.

  Raises:
    errors.InputError: this process has others than process 0; the keys are named.
  """
  store = store_lib.open_store()
  if store is None:
    return
  key = f"same/{what}"
  if store.index == 0:
    store.set(key, json.dumps(values))
    return
  here, first = json.loads(json.dumps(values)), json.loads(store.wait(key))
  differing = [
    f"{name} ({here.get(name, 'unset')} here, {first.get(name, 'unset')} in process 0)"
    for name in sorted(here.keys() | first.keys())
    if here.get(name) != first.get(name)
  ]
  if differing:
    raise errors.InputError(
      f"process {store.index} has another {what}: {'; '.join(differing[:5])}",
      "that of process 0 in every process",
      fix=fix,
    )


def check_shared(folder: epath.Path, patience: float = 5) -> None:
  """Checks that all processes of a run see the same folder.

  Args:
    patience: seconds that a network disk may take to show a new file.

  Raises:
    errors.InputError: some do not see what process 0 writes there; the same in all.
  """
  others = ", ".join(map(str, _blind(folder, patience)[:16]))
  if others:
    raise errors.InputError(
      f"{folder} is not shared: processes {others} do not see what process 0 writes",
      "a folder that all hosts share, or gs://BUCKET/FOLDER",
    )


def is_shared(folder: artifacts.PathLike, patience: float = 5) -> bool:
  """Whether all processes see a folder that process 0 can write to; created if not."""
  return not _blind(epath.Path(folder), patience)


def _blind(folder: epath.Path, patience: float) -> list[int]:
  """The processes that do not see what process 0 writes to a folder."""
  if jax.process_count() == 1:
    return []
  from jax.experimental import multihost_utils
  import numpy as np

  token = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
  probe = folder / f".shared-{int(token):08x}"
  if jax.process_index() == 0:
    # On a disk that is full or read-only, nobody sees the file.
    with contextlib.suppress(OSError):
      folder.mkdir(parents=True, exist_ok=True)
      probe.write_text("")
  sync("probe written")
  seen = multihost_utils.process_allgather(np.asarray(_appears(probe, patience)))
  if jax.process_index() == 0:
    probe.unlink(missing_ok=True)
  return np.flatnonzero(~seen).tolist()


def agree(value: bool) -> bool:
  """Returns the value of process 0 in all processes."""
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils
  import numpy as np

  return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def sync(name: str) -> None:
  """Waits until all processes of a run have come to the same line.

  Args:
    name: of the line, for an error if they come to different ones.
  """
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def _appears(path: epath.Path, seconds: float) -> bool:
  """Whether a file exists within a time."""
  deadline = time.monotonic() + seconds
  while not (exists := path.exists()) and time.monotonic() < deadline:
    time.sleep(0.1)
  return exists
