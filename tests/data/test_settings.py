"""`DataSettings`: where the records of a dataset are kept."""

import dataclasses
import pathlib

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.records import records
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
