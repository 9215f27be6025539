"""An autoencoder is found by its name, wherever it stands, and known by its weights."""

import os
import shutil

import huggingface_hub
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.latents import autoencoders


@pytest.fixture
def folder(make_autoencoder, tmp_path):
  return make_autoencoder(tmp_path / "made")


def test_find_accepts_a_model_a_pipeline_or_a_run(folder, tmp_path):
  pipeline, run = tmp_path / "pipeline", tmp_path / "run"
  shutil.copytree(folder, pipeline / "vae")
  shutil.copytree(folder, run / "autoencoder")
  result = [autoencoders.find(str(name)) for name in (folder, pipeline, run)]
  assert result[0].network.factor == 2
  assert {one.network for one in result} == {result[0].network}
  assert len({one.description for one in result}) == 1
  assert result[0].description.startswith("KL autoencoder f2 z2 0.0M ")


def test_find_fingerprints_weights_and_not_scales(make_autoencoder, tmp_path):
  results = [
    make_autoencoder(tmp_path / "a"),
    make_autoencoder(tmp_path / "b", scaling_factor=2.0),
    make_autoencoder(tmp_path / "c", seed=1),
  ]
  prints = [autoencoders.find(str(one)).fingerprint for one in results]
  assert prints[0] == prints[1]
  assert prints[2] != prints[0]


def test_find_opens_the_default_without_files(monkeypatch, folder):
  result = autoencoders.find(autoencoders.DEFAULT)
  assert result.network.factor == 8
  assert result.network.latent_channels == 4
  # A cache that holds something else in its place.
  config = str(folder / "config.json")
  monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: config)
  with pytest.raises(errors.InputError, match="download or copy it again"):
    result.params  # noqa: B018 - read for its error


def test_find_downloads_only_the_autoencoder_of_a_pipeline(
  monkeypatch, folder, tmp_path
):
  asked = []

  def download(name, allow_patterns):
    asked.append((name, allow_patterns))
    shutil.copytree(folder, tmp_path / "copy" / "vae", dirs_exist_ok=True)
    return str(tmp_path / "copy")

  weights = "vae/diffusion_pytorch_model.safetensors"
  files = ["v1-5-pruned.safetensors", "vae/config.json", weights]
  monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
  monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: files)
  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert autoencoders.find("someone/pipeline").network.factor == 2
  assert asked == [("someone/pipeline", ["vae/config.json", weights])]


def test_find_reports_an_unreachable_hub(monkeypatch):
  def fail(name):
    raise ConnectionError("no network")

  monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
  monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
  with pytest.raises(errors.InputError, match=r"could not be downloaded \(Connection"):
    autoencoders.find("someone/vae")


@pytest.mark.parametrize("name", ["", "none", "/none/at/all", "./none/here", "a/b/c"])
def test_find_reports_what_is_no_folder_and_no_id(name):
  with pytest.raises(
    errors.InputError, match=r"no autoencoder \(config\.codec\.folder\) in"
  ):
    autoencoders.find(name)


def test_find_names_the_file_of_another_model(folder, tmp_path):
  weights = folder / "diffusion_pytorch_model.safetensors"
  os.truncate(weights, weights.stat().st_size // 2)
  with pytest.raises(errors.InputError, match=weights.name):
    autoencoders.find(str(folder)).params  # noqa: B018 - read for its error
  (folder / "checksums.json").unlink()
  config = folder / "config.json"
  config.write_text(config.read_text().replace("AutoencoderKL", "UNet2DModel"))
  with pytest.raises(errors.InputError, match="UNet2DModel"):
    autoencoders.find(str(folder))
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.InputError, match=r"no config\.json"):
    autoencoders.find(str(tmp_path / "empty"))


def test_autoencoder_pads_parts_of_a_batch(folder, monkeypatch):
  autoencoder = autoencoders.find(str(folder))
  monkeypatch.setattr(autoencoders.Autoencoder, "batch_size", lambda self, side: 8)
  images = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1), np.uint8)
  moments = autoencoder.encode(images)
  assert moments.shape == (11, 4, 4, 4)
  np.testing.assert_allclose(autoencoder.encode(images[9:]), moments[9:], atol=1e-5)
  assert np.abs(moments[0] - moments[1]).max() > 1e-3
