"""What processes compare when a run starts."""

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import agreement, store
from tests.parallel.memory_store import MemoryStore


def test_check_same_names_the_keys_that_differ(monkeypatch):
  values_of_all: dict[str, str] = {}

  def check(index: int, **values) -> None:
    monkeypatch.setattr(
      store, "open_store", lambda: MemoryStore(values_of_all, index, 3)
    )
    agreement.check_same("config", values, "start the same command")

  check(0, seed=1, size=(2, 3), size_of=4)
  check(1, seed=1, size=[2, 3], size_of=4)
  with pytest.raises(
    errors.InputError,
    match=r"process 2 has another config: seed \(2 here, 1 in process 0\); size_of"
    r" \(unset here, 4 in process 0\); expected .*; fix: start",
  ):
    check(2, seed=2, size=(2, 3))


def test_agreement_of_one_process_does_nothing(tmp_path):
  agreement.check_same("config", {"a": object()}, "")
  agreement.sync("here")
  assert agreement.agree(True)
  assert agreement.is_shared(tmp_path / "absent")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("shared", [True, False])
def test_check_shared_refuses_folders_of_each_host(
  shared, index, tmp_path, monkeypatch
):
  """As process 0 or 1; the other one is simulated."""
  folders = [tmp_path / "a", tmp_path / ("a" if shared else "b")]
  for folder in folders:
    folder.mkdir(exist_ok=True)

  def sync(name: str) -> None:
    del name
    (folders[0] / ".shared-00000007").touch()

  def gather(seen):
    return np.stack([np.asarray(True), seen if index else np.asarray(shared)])

  monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda _: np.uint32(7))
  monkeypatch.setattr(multihost_utils, "sync_global_devices", sync)
  monkeypatch.setattr(multihost_utils, "process_allgather", gather)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: index)
  if shared:
    agreement.check_shared(epath.Path(folders[index]))
  else:
    with pytest.raises(errors.InputError, match="processes 1 do not see"):
      agreement.check_shared(epath.Path(folders[index]), patience=0)
  if index == 0:
    assert list(folders[0].iterdir()) == []
