"""Configs of an autoencoder: all choices build, and what is wrong is refused."""

import importlib

import jax
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.extras.autoencoder import settings
from cxr_diffusion_jax.extras.autoencoder import trainer as trainer_lib

# Factor, and parameters of the autoencoder in millions: at least, at most.
SIZES = {
  "f4": (4, 50, 60),
  "f8": (8, 80, 90),
  "phantom": (4, 0.2, 1),
  "phantom_f8": (8, 0.2, 1),
}


@pytest.mark.parametrize("choice", SIZES)
def test_settings_have_the_stated_factor_and_size(choice, repository):
  module = importlib.import_module("configs.autoencoder")
  assert sorted(module.CHOICES) == sorted(SIZES)
  factor, low, high = SIZES[choice]
  experiment = settings.build(module.get_config(choice))
  assert experiment.network.factor == factor
  objective = trainer_lib.make_objective(experiment)
  shapes = jax.eval_shape(
    lambda key: trainer_lib.init_params(objective, key), jax.random.key(0)
  )
  sizes = {
    name: sum(leaf.size for leaf in jax.tree.leaves(part)) / 1e6
    for name, part in shapes.items()
  }
  assert low <= sizes["autoencoder"] <= high
  assert ("discriminator" in sizes) == (not choice.startswith("phantom"))
  with pytest.raises(ValueError, match="expected one of f4, f8"):
    module.get_config("f16")


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"loss__reconstruction": "l2"}, r"loss\.reconstruction='l2'.*l1 or charbonnier"),
    ({"loss__kl_weight": -1.0}, r"loss\.kl_weight=-1"),
    ({"loss__crop_size": 33}, r"loss\.crop_size=33.* multiple of 2"),
    ({"loss__crop_size": 64}, r"loss\.crop_size=64; expected 32"),
    ({"data__image_size": 31}, r"data\.image_size=31.* multiple of 2"),
    ({"discriminator__weight": -0.5}, r"discriminator\.weight=-0\.5"),
    ({"discriminator__norm_groups": 3}, "groups that divide"),
    ({"optimizer__accumulation": 2}, r"accumulation=2.*crop_size"),
    ({"sample__num_images": 0}, r"sample\.num_images=0"),
    ({"model__dtype": "int8"}, r"model\.dtype='int8'"),
    ({"train__power_ema": (0.1,)}, r"power_ema"),
    ({"parallel__num_devices": 3}, "multiple of 3"),
  ],
)
def test_settings_refuse_wrong_values(given, message, build):
  with pytest.raises(errors.InputError, match=message):
    build(**given)


def test_settings_refuse_unknown_and_missing_keys(config):
  for section in settings.SECTIONS:
    spoilt = config().to_dict()
    spoilt[section]["nonsense"] = 1
    with pytest.raises(errors.InputError, match=rf"config\.{section}\.nonsense"):
      settings.build(spoilt)
  without = config().to_dict()
  del without["loss"]
  with pytest.raises(errors.InputError, match=r"without loss.*cxr_diffusion_jax\.main"):
    settings.build(without)
