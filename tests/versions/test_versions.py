"""Runs and records of earlier versions are opened, or refused with the way on."""

import json
import pathlib
import tarfile

import numpy as np
import pytest

from cxr_diffusion_jax import api, checked_files, errors
from cxr_diffusion_jax.data.records import records as records_lib
from tests.versions import make_run

# Each version that was ever written, and whether it is opened or refused.
OPENED = ("run2_records3", "run3_records3")


@pytest.fixture(params=OPENED)
def place(request, tmp_path) -> pathlib.Path:
  """A folder with `run` and `records`, whose tree of images is gone."""
  with tarfile.open(make_run.FOLDER / f"{request.param}.tar.gz") as archive:
    archive.extractall(tmp_path, filter="data")
  (tmp_path / "name").write_text(request.param)
  return tmp_path


def _open(place: pathlib.Path) -> api.Run:
  """The run, where its records belong to a tree that is not there."""
  root, records_dir = place / "phantom-cxr", place / "records"
  run = api.load_run(place / "run", data_root=str(root), records_dir=str(records_dir))
  # Records lie in a folder named after the path of the tree.
  (own,) = records_dir.iterdir()
  own.rename(run.data.tree_folder)
  return run


def _set_format(path: pathlib.Path, version: int) -> None:
  values = {**json.loads(path.read_text()), "format": version}
  # Runs of format 2 have no checksum.
  if values.pop("crc32", None) is None:
    path.write_text(json.dumps(values))
  else:
    checked_files.write_json(path, values)


def test_versions_sample_what_they_sampled_when_they_were_written(place):
  name = (place / "name").read_text()
  expected = np.load(make_run.FOLDER / f"{name}.npy")
  np.testing.assert_allclose(make_run.sample(_open(place)), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["config.json", "dataset.json"])
def test_versions_newer_run_is_refused(place, name):
  _set_format(place / "run" / name, 99)
  with pytest.raises(errors.InputError, match=f"{name} has format 99.*update cxr_diff"):
    api.load_run(place / "run")


def test_versions_newer_records_are_refused_and_kept(place):
  """An earlier checkout beside a newer one does not make them again in its format."""
  run = _open(place)
  path = run.data.records_folder / "records.json"
  _set_format(path, 99)
  before = path.read_bytes()
  with pytest.raises(errors.InputError, match=r"has format 99.*records_dir"):
    records_lib.open_records(run.data)
  assert path.read_bytes() == before


def test_versions_older_records_without_their_images_are_refused(place):
  run = _open(place)
  path = run.data.records_folder / "records.json"
  _set_format(path, 1)
  with pytest.raises(errors.InputError, match="phantom-cxr"):
    run.sample(split="test", num=1, num_steps=1)
