"""Files are there whole or not at all, on local disks and in buckets."""

import contextlib
import os
import shutil

import pytest

from cxr_diffusion_jax import artifacts, disk, errors
from cxr_diffusion_jax.synthesis import tree


def test_write_text_keeps_the_old_file_after_a_failure(tmp_path, monkeypatch):
  artifacts.write_text(tmp_path / "a.txt", "old")

  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(artifacts.os, "fsync", fail)
  with (
    pytest.raises(errors.InputError, match="No space left"),
    disk.reporting(tmp_path),
  ):
    artifacts.write_text(tmp_path / "a.txt", "new")
  assert (tmp_path / "a.txt").read_text() == "old"


def test_read_json_names_a_file_that_is_absent_or_damaged(tmp_path):
  artifacts.write_json(tmp_path / "a.json", {"b": [1, None]})
  assert artifacts.read_json(tmp_path / "a.json") == {"b": [1, None]}
  with pytest.raises(errors.InputError, match=r"no such file.*absent"):
    artifacts.read_json(tmp_path / "absent.json")
  (tmp_path / "a.json").write_text("{")
  with pytest.raises(errors.InputError, match=r"a\.json is not readable JSON"):
    artifacts.read_json(tmp_path / "a.json")
  path = tmp_path / "a.json"
  path.write_text("[" * 100_000)
  with pytest.raises(errors.InputError, match="not readable JSON"):
    artifacts.read_json(path)
  for encoding in ("utf-8-sig", "utf-16"):
    path.write_text('{"a": "ß"}', encoding=encoding)
    assert artifacts.read_json(path) == {"a": "ß"}


def test_artifacts_are_written_to_and_read_from_buckets(bucket):
  artifacts.write_json(f"{bucket}/run/a.json", {"b": 1})
  assert artifacts.read_json(f"{bucket}/run/a.json") == {"b": 1}
  assert artifacts.is_remote(bucket)
  assert not artifacts.is_remote("runs/a")


def _tree(folder) -> dict[str, str]:
  return {
    str(path.relative_to(folder)): path.read_text()
    for path in folder.rglob("*")
    if path.is_file() and path.name != "manifest.json"
  }


def _fill(folder, **texts) -> None:
  with artifacts.new_folder(folder) as staging:
    for name, text in texts.items():
      artifacts.write_text(staging / "images" / f"{name}.png", text)


def test_new_folder_appears_whole_or_not_at_all(tmp_path):
  target = tmp_path / "a" / "out"
  with artifacts.new_folder(target) as staging:
    (staging / "x.txt").write_text("1")
    assert not target.exists()
  assert _tree(target) == {"x.txt": "1"}
  for folder in (tmp_path / "b", target):
    with (
      contextlib.suppress(ZeroDivisionError),
      artifacts.new_folder(folder) as staging,
    ):
      (staging / "x.txt").write_text("2")
      raise ZeroDivisionError
  assert _tree(tmp_path) == {"a/out/x.txt": "1"}


def test_new_folder_removes_what_a_killed_call_left(tmp_path):
  (tmp_path / ".out-abc.partial" / "out").mkdir(parents=True)
  (tmp_path / ".output-abc.partial").mkdir()
  with artifacts.new_folder(tmp_path / "out") as first:
    (first / "a.txt").write_text("1")
    # Another call does not touch it while it is in use.
    with artifacts.new_folder(tmp_path / "out") as second:
      (second / "a.txt").write_text("2")
    assert (first / "a.txt").read_text() == "1"
    shutil.rmtree(tmp_path / "out")
  assert _tree(tmp_path) == {"out/a.txt": "1"}
  (tmp_path / ".out-abc.partial").mkdir()
  (tmp_path / "out/.out-abc.partial").mkdir()
  with artifacts.new_folder(tmp_path / "out"):
    pass
  folders = {path.name for path in tmp_path.rglob("*") if path.is_dir()}
  assert folders == {"out", ".output-abc.partial"}


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux's /proc")
def test_new_folder_refuses_a_file_system_without_new_folders():
  # It answers as if the folder above were missing.
  for folder in ("/proc/x", "/proc/x/y"):
    with (
      pytest.raises(errors.InputError, match=r"^/proc/.*: No such file.*fix: name an"),
      artifacts.new_folder(folder),
    ):
      pytest.fail("not refused")
    with pytest.raises(errors.InputError, match=r"^/proc/.*: No such file"):
      tree.claim(folder, {})


def test_new_folder_replaces_what_its_manifest_lists(tmp_path):
  _fill(tmp_path, a="1", b="2")
  _fill(tmp_path, b="3")
  assert _tree(tmp_path) == {"images/b.png": "3"}
  _fill(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("name", ["mine.png", "images/mine.png", "images/a.png"])
def test_new_folder_refuses_files_of_the_user(name, tmp_path):
  _fill(tmp_path, a="1")
  (tmp_path / name).write_text("mine")
  before = _tree(tmp_path)
  with (
    pytest.raises(errors.InputError, match=f"did not write: {name};"),
    artifacts.new_folder(tmp_path),
  ):
    pytest.fail("not refused")
  # A file may also come while the folder is being made.
  (tmp_path / name).unlink()
  _fill(tmp_path / "other", a="1")
  with (
    pytest.raises(errors.InputError, match=f"did not write: {name};"),
    artifacts.new_folder(tmp_path / "other"),
  ):
    (tmp_path / "other" / name).write_text("mine")
  assert _tree(tmp_path / "other")[name] == "mine"
  assert before[name] == "mine"


def test_new_folder_takes_over_after_an_interrupted_replacement(tmp_path, monkeypatch):
  _fill(tmp_path, a="1", b="1")
  replace = artifacts.os.replace

  def stop(source, target):
    if str(target).endswith("b.png"):
      raise KeyboardInterrupt
    replace(source, target)

  with monkeypatch.context() as patch:
    patch.setattr(artifacts.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
      _fill(tmp_path, a="22", b="22", c="22")
  _fill(tmp_path, a="3")
  assert _tree(tmp_path) == {"images/a.png": "3"}


def test_new_folder_writes_to_a_bucket(bucket):
  _fill(f"{bucket}/out", a="1", b="2")
  _fill(f"{bucket}/out", b="3")
  assert artifacts.read_json(f"{bucket}/out/manifest.json") == {
    "files": {"images/b.png": 1}
  }
  names = [path.name for path in artifacts.epath.Path(f"{bucket}/out/images").iterdir()]
  assert names == ["b.png"]
  artifacts.write_text(f"{bucket}/out/images/mine.png", "mine")
  with pytest.raises(errors.InputError, match=r"images/mine\.png"):
    _fill(f"{bucket}/out", b="4")


def test_claim_folder_refuses_files_of_the_user(tmp_path):
  for _ in range(2):
    artifacts.claim_folder(tmp_path / "new", ["a.txt", "b"])
    (tmp_path / "new" / "a.txt").write_text("1")
  (tmp_path / "new" / "mine.txt").write_text("mine")
  with pytest.raises(errors.InputError, match=r"did not write: mine\.txt;"):
    artifacts.claim_folder(tmp_path / "new", ["a.txt", "b"])
  (tmp_path / "old").mkdir()
  (tmp_path / "old" / "a.txt").write_text("of the user, or of a former version")
  with pytest.raises(errors.InputError, match=r"did not write: a\.txt;"):
    artifacts.claim_folder(tmp_path / "old", ["a.txt", "b"])
  artifacts.claim_folder(tmp_path / "old", ["a.txt", "b"], adopt=True)


def test_new_folder_is_named_when_a_file_in_it_does_not_fit(tmp_path):
  with (
    pytest.raises(errors.InputError, match=rf"{tmp_path}/out: No space left"),
    artifacts.new_folder(tmp_path / "out"),
  ):
    raise OSError(28, "No space left on device")
  assert not [*tmp_path.iterdir()]
