"""The Python interface: a run that travelled alone, sampled from Python."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import cxr_diffusion_jax as cxr
from cxr_diffusion_jax import api, errors
from cxr_diffusion_jax.evaluation.metrics import diversity, frechet
from tests.fixtures.runs import save_run


@pytest.fixture(scope="module")
def saved(run_of, tmp_path_factory) -> pathlib.Path:
  """The folder of a run whose parameters are noise."""
  return save_run(run_of("findings"), tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def run(saved, tmp_path) -> api.Run:
  """The run, copied without its dataset."""
  folder = shutil.copytree(saved, tmp_path / "moved")
  card = json.loads((folder / "dataset.json").read_text())
  for key in ("root", "records_dir"):
    card[key] = str(tmp_path / "gone")
  del card["crc32"]
  (folder / "dataset.json").write_text(json.dumps(card))
  return cxr.load_run(folder)


def test_sample_returns_images_without_the_dataset(run):
  images = run.sample(num=3, seed=1, num_steps=2)
  assert images.shape == (3, 32, 32)
  assert images.dtype == np.float32
  assert 0 <= images.min() < images.max() <= 1
  np.testing.assert_array_equal(images, run.sample(num=3, seed=1, num_steps=2))
  assert (run.sample(num=3, seed=2, num_steps=2) != images).any()


def test_sample_refuses_what_the_run_cannot_use(run):
  with pytest.raises(errors.InputError, match="prompt for a run whose condition"):
    run.sample(prompt="an effusion")
  with pytest.raises(errors.InputError, match="sampler 'eular'"):
    run.sample(sampler="eular")


def test_sample_takes_rows_of_the_dataset(run, saved):
  there = cxr.load_run(saved)
  ids = [str(name) for name in there.dataset.ids("test")[:2]]
  images = there.sample(image_ids=ids, num_steps=2, guidance=2.0)
  assert images.shape == (2, 32, 32)
  assert there.sample(split="test", num=2, num_steps=2).shape == (2, 32, 32)
  with pytest.raises(errors.InputError):
    run.sample(image_ids=ids)


@pytest.mark.parametrize(
  ("path", "condition"),
  [
    ("findings", {"findings": ["Effusion"], "age": 63, "sex": "F", "view": "AP"}),
    ("elixr_b", {"prompt": "large left pleural effusion"}),
    ("elixr_c", {"reference": "x.png"}),
  ],
)
def test_sample_opens_no_records_for_given_conditions(
  path, condition, run_of, encoder, xray, monkeypatch
):
  result = run_of(path)
  run = api.Run(**{name: getattr(result, name) for name in result.__dataclass_fields__})
  monkeypatch.setattr(
    api.Run, "dataset", property(lambda _: pytest.fail("opened the dataset"))
  )
  if "reference" in condition:
    condition = {"reference": xray("x.png", 100)}
  plain = run.sample(**condition, num=2, guidance=1.0)
  assert plain.shape == (2, 32, 32)
  assert (run.sample(**condition, num=2, guidance=3.0) != plain).any()


def test_api_metrics_equal_those_of_the_reports():
  a, b = np.random.default_rng(0).standard_normal((2, 50, 4))
  assert cxr.metrics.frechet_distance(a, b) == frechet.frechet_distance(a, b)
  assert cxr.metrics.ssim is diversity.ssim
  names = {"kernel_distance", "cmmd", "precision_recall", "density_coverage", "ms_ssim"}
  assert names <= set(cxr.metrics.__all__)


def test_load_run_names_a_folder_without_a_run(tmp_path):
  with pytest.raises(errors.InputError, match=r"has no config\.json"):
    cxr.load_run(tmp_path)
  with pytest.raises(AttributeError, match="no attribute 'smaple'"):
    _ = cxr.smaple


def test_load_run_downloads_a_repository(run, monkeypatch):
  monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: run.folder)
  assert cxr.load_run("someone/chest").checkpoint_step == 3


def test_api_import_is_quick():
  code = "import sys, cxr_diffusion_jax; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_api_quickstart_shows_what_it_computes(run, repository, tmp_path, monkeypatch):
  nbformat = pytest.importorskip("nbformat")
  nbclient = pytest.importorskip("nbclient")
  path = repository / "docs" / "quickstart.ipynb"
  assert path.stat().st_size < 300_000
  notebook = nbformat.read(path, as_version=4)
  shown = [
    output
    for cell in notebook.cells
    for output in cell.get("outputs", [])
    if "image/png" in output.get("data", {})
  ]
  assert shown, "committed executed, with its pictures"
  monkeypatch.setenv("CXR_RUN", str(run.folder))
  nbclient.NotebookClient(
    notebook, timeout=300, resources={"metadata": {"path": str(repository)}}
  ).execute()
