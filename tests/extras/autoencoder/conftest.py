"""A small autoencoder: built, with its data, and trained in pieces."""

from collections.abc import Callable
import importlib

import pytest

from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.extras.autoencoder import settings
from cxr_diffusion_jax.run import dataset as dataset_lib

SMALL = {
  "data.image_size": 32,
  "data.phantom_images": 0,
  "model.block_channels": (4, 4),
  "model.latent_channels": 2,
  "model.norm_groups": 2,
  "discriminator.channels": 2,
  "discriminator.num_layers": 1,
  "discriminator.norm_groups": 2,
  "optimizer.schedule": "constant",
  "optimizer.warmup_steps": 2,
  "train.num_steps": 4,
  "train.batch_size": 8,
  "train.log_every": 1,
  "train.validate_every": 100,
  "train.validation_batches": 1,
  "train.sample_every": 0,
  "train.checkpoint_every": 2,
  "sample.num_images": 2,
  "parallel.num_devices": 1,
}


@pytest.fixture(scope="session")
def changes(small) -> dict:
  """The recipe of the small run over `configs/autoencoder.py:phantom`."""
  where = {"data.root": str(small.root), "data.records_dir": str(small.records_dir)}
  return {**SMALL, **where}


@pytest.fixture(scope="session")
def config(changes) -> Callable:
  """Makes a ConfigDict: `config(train__num_steps=2)`."""

  def make(**given):
    module = importlib.import_module("configs.autoencoder")
    result = module.get_config("phantom")
    given = {name.replace("__", "."): value for name, value in given.items()}
    result.update_from_flattened_dict({**changes, **given})
    return result

  return make


@pytest.fixture(scope="session")
def build(config) -> Callable[..., settings.AutoencoderExperiment]:
  """Builds the small experiment: `build(discriminator__weight=0.5)`."""
  return lambda **given: settings.build(config(**given))


@pytest.fixture
def images(build) -> dataset_lib.Dataset:
  """The small dataset without any column."""
  return dataset_lib.prepare(build().data, conditioning.Needs())
