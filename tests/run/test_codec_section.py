"""The section `codec`: which codec, of which statistics, and what is refused."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import codec_section
from cxr_diffusion_jax.training import experiment as experiment_lib


@pytest.fixture(scope="module")
def folder(make_autoencoder, tmp_path_factory) -> str:
  result = make_autoencoder(
    tmp_path_factory.mktemp("vae") / "a", scaling_factor=0.5, shift_factor=0.25
  )
  return str(result)


def test_build_of_pixels_and_wavelets_has_no_autoencoder():
  for name in ("pixel", "haar"):
    section = codec_section.build({"name": name})
    assert section.autoencoder is None
    assert section.make({}).columns == ()
    assert section.make({}).params is None


@pytest.mark.parametrize(
  ("given", "factor"),
  [
    ({}, 0.5),
    ({"scaling_factor": "own"}, 0.5),
    ({"scaling_factor": "measured"}, 0.8),
    ({"scaling_factor": 0.2}, 0.2),
    # As a flag brings it.
    ({"scaling_factor": "0.2"}, 0.2),
  ],
)
def test_build_takes_the_scaling_factor_from_model_config_or_data(
  folder, given, factor
):
  section = codec_section.build({"name": "kl", "folder": folder, **given})
  codec = section.make({"latent": {"std": 1.25}})
  assert codec.scaling_factor == factor
  assert codec.shift_factor == 0.25
  assert codec.posterior == "sample"
  assert codec.columns == ("latent",)
  assert codec.params is section.autoencoder.params
  moments = np.zeros((1, 2, 2, 4))
  x0 = codec.encode_batch(None, {"latent": moments})
  np.testing.assert_allclose(x0, -0.25 * factor)


def test_build_gives_codecs_the_variance_of_their_first_mode(folder):
  bands = {"2": {"mean": [0.0] * 16, "std": [1.0] * 16}}
  statistics = {
    "haar": bands,
    "latent": {"std": 1.0},
    "modes": {"0": [7.0, 2.0], "2": [30.0, 4.0], "latent": [12.0]},
  }
  for section, variance in (
    ({"name": "pixel"}, 7.0),
    ({"name": "haar"}, 30.0),
    ({"name": "kl", "folder": folder}, 0.5**2 * 12.0),
  ):
    make = codec_section.build(section).make
    assert make(statistics).mode_variance == variance
    # Records of earlier versions do not state it.
    older = {name: statistics[name] for name in ("haar", "latent")}
    assert make(older).mode_variance == 0
    assert make(older | {"modes": {"latent": []}}).mode_variance == 0


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"scaling_factor": "auto"}, "scaling_factor='auto'; expected a number, 'own' or"),
    ({"scaling_factor": -1.0}, "scaling_factor=-1.0"),
    ({"posterior": "mode"}, "posterior='mode'"),
    ({"folder": ""}, "config.codec without folder"),
    (
      {"folder": "/none/there"},
      "no autoencoder (config.codec.folder) in '/none/there'",
    ),
    ({"level": 2}, "unknown key config.codec.level"),
    ({"levels": 2}, "fix: put kl_ before the size, as in configs/elixr_c.py:kl_small"),
  ],
)
def test_build_refuses_wrong_values(folder, given, message):
  with pytest.raises(errors.InputError) as caught:
    codec_section.build({"name": "kl", "folder": folder, **given})
  assert message in str(caught.value)


def test_build_refuses_latents_without_a_spread(folder):
  section = codec_section.build(
    {"name": "kl", "folder": folder, "scaling_factor": "measured"}
  )
  with pytest.raises(errors.InputError, match=r"standard deviation 0"):
    section.make({"latent": {"std": 0.0}})


def test_build_of_an_experiment_takes_the_shape_of_latents(small, folder):
  config = small.config().to_dict()
  config["codec"] = {"name": "kl", "folder": folder}
  experiment = experiment_lib.build(config)
  assert experiment.recipe.latent_shape == (16, 16, 2)
  assert experiment.autoencoder.name == folder
  config["data"]["image_size"] = 33
  with pytest.raises(errors.InputError, match=r"image size 33 .* multiple of 2"):
    experiment_lib.build(config)
