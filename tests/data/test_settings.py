"""`DataSettings`: where the records of a dataset are kept."""

from concurrent import futures
import dataclasses
import pathlib
import shutil

from PIL import Image
import pytest

from cxr_diffusion_jax import checked_files, errors
from cxr_diffusion_jax.data.records import moved, records
from cxr_diffusion_jax.data.settings import DataSettings


@pytest.fixture
def settings(make_tree, tmp_path) -> DataSettings:
  root = make_tree().root
  return DataSettings(
    root=str(root), image_size=8, records_dir=str(tmp_path / "records")
  )


def test_settings_resolve_a_relative_root(settings, monkeypatch):
  root = pathlib.Path(settings.root)
  monkeypatch.chdir(root.parent)
  relative = dataclasses.replace(settings, root=root.name)
  assert relative.tree_folder == settings.tree_folder


def test_settings_keep_records_of_a_moved_tree(settings, tmp_path):
  prepared = records.prepare_records(settings)
  moved = dataclasses.replace(settings, root=str(tmp_path / "disk" / "tree"))
  (tmp_path / "disk").mkdir()
  # While the old tree is there, one of its name elsewhere has a folder of its own.
  assert moved.tree_folder != settings.tree_folder
  pathlib.Path(settings.root).rename(moved.root)
  for _ in range(2):
    assert moved.tree_folder == settings.tree_folder
    assert records.prepare_records(moved) == prepared


def test_settings_keep_records_of_a_moved_tree_that_changed(
  settings, tmp_path, monkeypatch
):
  first = records.prepare_records(settings)
  root = tmp_path / "disk" / "tree"
  root.parent.mkdir()
  pathlib.Path(settings.root).rename(root)
  table = root / "Data_Entry_2017.csv"
  table.write_text(table.read_text().replace(",M,", ",F,", 1))
  # A dataset of the same name that is gone too comes first.
  other = first.folder.parent.with_name("tree-00000000") / "8"
  other.mkdir(parents=True)
  checked_files.write_json(other / "records.json", {"root": "gone"})
  moved = dataclasses.replace(settings, root=str(root))

  def killed(*args, **kwargs):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(records.parts_lib, "make_parts", killed)
    with pytest.raises(KeyboardInterrupt):
      records.prepare_records(moved)
  assert records.prepare_records(moved).folder == first.folder
  assert (other / "records.json").exists()


def test_prepare_records_leaves_those_of_another_dataset_of_one_name(
  settings, tmp_path
):
  first = records.prepare_records(settings)
  root = pathlib.Path(settings.root)
  (tmp_path / "other").mkdir()
  root.rename(tmp_path / "away")
  # The same names of other images.
  other = tmp_path / "other" / "tree"
  shutil.copytree(tmp_path / "away", other)
  for path in other.rglob("*.png"):
    Image.open(path).point(lambda grey: 255 - grey).save(path)
  other_settings = dataclasses.replace(settings, root=str(other))
  second = records.prepare_records(other_settings)
  assert second.folder != first.folder
  assert second.folder == other_settings.records_folder
  assert records.open_records(settings) == first


def test_claim_by_several_hosts_at_a_time_leaves_one_note(settings, tmp_path):
  folder = tmp_path / "tree-01234567"
  folder.mkdir()
  with futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda _: moved.claim(settings, folder), range(200)))
  assert [path.name for path in folder.iterdir()] == ["root.json"]
  note = checked_files.read_json(folder / "root.json")
  assert note["root"] == settings.location


def test_records_in_a_bucket_are_refused(settings):
  with pytest.raises(
    errors.InputError, match=r"records_dir=gs://.*a folder of this ma"
  ):
    dataclasses.replace(settings, records_dir="gs://bucket/records")


def test_settings_name_a_bucket_root_by_its_url(settings):
  remote = dataclasses.replace(settings, root="gs://bucket/nih/")
  assert remote.tree_folder.name.startswith("nih-")
  assert remote.root == "gs://bucket/nih/"


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("resize", "stretch"),
    ("split", "random"),
    ("missing", "ignore"),
    ("image_size", 0),
  ],
)
def test_data_settings_refuse_bad_values(name, value):
  with pytest.raises(errors.InputError, match=rf"config\.data\.{name}[ =]{value!r}"):
    DataSettings(**{"root": ".", "image_size": 8, name: value})


def test_settings_refuse_sources_and_findings_that_are_the_same():
  with pytest.raises(errors.InputError, match="expected different folders"):
    DataSettings(root="a,./a", source="nih+nih", image_size=8)
  for names in ({"vocabulary": "Edema,edema"}, {"rename": "Edema=No_Finding"}):
    with pytest.raises(errors.InputError, match="different findings, of which No"):
      DataSettings(root="a", image_size=8, **names)
  with pytest.raises(errors.InputError, match=r"fix: --config.data.source=nih\+vindr"):
    DataSettings(root="a,b", source="nih, vindr", image_size=8)
