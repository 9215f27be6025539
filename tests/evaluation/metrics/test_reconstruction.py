"""What codecs lose: nothing where they are invertible, else what the images show."""

import json
import math

import jax
import numpy as np
import pytest

from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.evaluation.metrics import diversity, reconstruction
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.models import kl_codec
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.sampling import decoding


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make_mesh(num_devices=2)


@pytest.fixture(scope="module")
def images():
  """uint8 [5 16 16 1], smooth."""
  ramp = np.add.outer(np.arange(16), np.arange(16)) * 8
  return np.stack([np.uint8(ramp // k) for k in range(1, 6)])[..., None]


@pytest.fixture(scope="module")
def kl(make_autoencoder, tmp_path_factory):
  result = autoencoders.find(str(make_autoencoder(tmp_path_factory.mktemp("f2") / "a")))
  return kl_codec.Kl(
    autoencoder=result.network, load_params=lambda: result.params, scaling_factor=0.5
  )


@pytest.mark.parametrize(
  "codec",
  [
    codec_lib.Pixel(),
    codec_lib.Haar(levels=2, mean=(0.3,) * 16, std=(0.7,) * 16),
  ],
  ids=["pixel", "haar"],
)
def test_measure_of_invertible_codecs_is_exact(codec, mesh, images):
  figures = reconstruction.measure(codec, mesh, images)
  assert figures.exact
  assert figures.text == "exact"
  assert figures.num_images == 5
  assert figures.psnr > 100
  assert figures.worst < 0.01
  content = json.loads(json.dumps(reconstruction.describe(figures)))
  assert content["exact"] is True


def test_measure_compares_decoded_images(kl, mesh, images):
  latents = decoding.make_encode(kl, mesh)(images / np.float32(127.5) - 1)
  results = decoding.make_decode(kl, mesh)(latents)
  figures = reconstruction.measure(kl, mesh, images)
  wanted = diversity.psnr(images / 255, (results + 1) / 2).mean()
  np.testing.assert_allclose(figures.psnr, wanted, rtol=1e-4)
  assert not figures.exact
  assert 0 <= figures.ms_ssim <= 1
  assert figures.text.startswith(f"{figures.psnr:.1f} dB, MS-SSIM 0.")


def test_measure_of_small_images_has_no_similarity(mesh):
  figures = reconstruction.measure(
    codec_lib.Pixel(), mesh, np.zeros((1, 8, 8, 1), np.uint8)
  )
  assert math.isnan(figures.ms_ssim)
  assert math.isinf(figures.psnr)
  content = reconstruction.describe(figures)
  assert content["ms_ssim"] is None
  assert content["psnr"] is None


def test_make_encode_and_decode_take_any_number_of_rows(kl, mesh, monkeypatch):
  monkeypatch.setattr(kl_codec, "rows_at_once", lambda side: 2)
  images = np.asarray(jax.random.normal(jax.random.key(0), (5, 8, 8, 1)))
  latents = decoding.make_encode(kl, mesh)(images)
  np.testing.assert_allclose(latents, jax.jit(kl.encode)(images), atol=1e-4)
  decoded = decoding.make_decode(kl, mesh)(latents)
  wanted = jax.jit(kl.decode)(latents)
  np.testing.assert_allclose(decoded, np.clip(wanted, -1, 1), atol=1e-4)


def test_read_describes_saved_figures(tmp_path):
  read = reconstruction.read
  assert read(tmp_path, {"codec": {"name": "haar"}}).startswith("exact")
  assert read(tmp_path, {"codec": {"name": "kl"}}) == "not measured"
  figures = reconstruction.Reconstruction(
    num_images=7, psnr=31.25, ms_ssim=math.nan, worst=40.0
  )
  content = {"split": "test", **reconstruction.describe(figures)}
  (tmp_path / reconstruction.FILE).write_text(json.dumps(content))
  assert read(tmp_path, {"codec": {"name": "kl"}}) == "31.2 dB on 7 test images"
