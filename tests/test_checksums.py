"""`checksums.py`: no bit of a checkpoint or a network can change without a word."""

import random
import shutil

import numpy as np
import pytest

from cxr_diffusion_jax import checksums, errors
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.run import checkpoints
from tests.run import test_checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A folder with two checkpoints."""
  folder = tmp_path_factory.mktemp("run")
  with checkpoints.open_manager(folder) as manager:
    for step in (1, 2):
      checkpoints.save(manager, state_of(step), {"config": {}}, 0.5)
  return folder


@pytest.fixture
def workdir(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / "run")


def state_of(step: int):
  return test_checkpoints._state(step, mesh_lib.make_mesh())


def _flip(path, generator: random.Random) -> None:
  content = bytearray(path.read_bytes())
  content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
  path.write_bytes(content)


def _files(workdir, step: int) -> list:
  """All files but two, which Orbax writes after the others."""
  files = [path for path in workdir.glob(f"checkpoints/{step}/**/*") if path.is_file()]
  late = ("_CHECKPOINT_METADATA", "commit_success.txt")
  return [path for path in files if path.name not in late]


def test_check_detects_every_flipped_bit_and_names_the_file(workdir):
  folder, generator = workdir / "checkpoints/2", random.Random(0)
  checksums.check(folder)
  files = [path for path in _files(workdir, 2) if path.name != checksums.FILE]
  assert len(files) > 15
  for path in files * 4:
    content = path.read_bytes()
    _flip(path, generator)
    with pytest.raises(checksums.Damaged, match=path.name):
      checksums.check(folder)
    path.write_bytes(content)
  checksums.check(folder)


@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_restore_does_not_need_the_file_that_is_not_sealed(workdir, content):
  path = workdir / "checkpoints/2/_CHECKPOINT_METADATA"
  if content is None:
    path.unlink()
  else:
    path.write_bytes(content)
  with checkpoints.open_manager(workdir) as manager:
    assert checkpoints.find_step(manager, checkpoints.BEST) == 2
    restored, _ = checkpoints.restore(manager, state_of(0))
  np.testing.assert_array_equal(
    restored.params["to_q"]["kernel"], state_of(2).params["to_q"]["kernel"]
  )


def test_restore_names_a_checkpoint_whose_arrays_orbax_cannot_decode(
  workdir, monkeypatch
):
  """As of a damaged one without checksums."""

  def fail(*args, **kwargs):
    raise Exception("while reading array index: Error decoding chunk")

  with checkpoints.open_manager(workdir) as manager:
    monkeypatch.setattr(manager, "restore", fail)
    with pytest.raises(errors.InputError, match=r"2 is damaged.*decoding chunk"):
      checkpoints.restore(manager, state_of(0))


def test_open_manager_says_that_such_a_file_can_be_deleted(workdir):
  path = workdir / "checkpoints/2/_CHECKPOINT_METADATA"
  path.write_bytes(b'{"item_handlers": 3}')
  with (
    pytest.raises(errors.InputError, match="delete those files"),
    checkpoints.open_manager(workdir),
  ):
    pass


def test_check_detects_missing_files_and_looks_at_the_parts_that_are_read(workdir):
  folder = workdir / "checkpoints/2"
  next((folder / "state").rglob("manifest.ocdbt")).unlink()
  checksums.check(folder, ("ema_params", "run"))
  with pytest.raises(checksums.Damaged, match=r"manifest\.ocdbt"):
    checksums.check(folder, ("state",))
  (folder / checksums.FILE).write_text('{"a": 1')
  with pytest.raises(checksums.Damaged, match="cannot be read"):
    checksums.check(folder, ("run",))


def test_check_model_says_how_to_go_on_with_a_file_that_was_changed(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "weights").write_bytes(b"abc")
  checksums.check_model(tmp_path)
  checksums.seal(tmp_path, ("config.json", "weights"))
  (tmp_path / "README.md").write_text("added")
  checksums.check_model(tmp_path)
  _flip(tmp_path / "weights", random.Random(0))
  checksums.check_model(tmp_path, ("config.json",))
  with pytest.raises(errors.InputError, match=r"weights is not .*delete its checksums"):
    checksums.check_model(tmp_path)
  (tmp_path / checksums.FILE).unlink()
  checksums.check_model(tmp_path)
