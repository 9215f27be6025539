"""A network is one module: it trains, with REPA, on any mesh, without other edits."""

import jax
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.training import denoiser_trainer
from cxr_diffusion_jax.training import experiment as experiment_lib


@pytest.fixture
def with_mixer(install, small):
  """The small config with the documented network, on four devices."""
  install("models/denoisers/mixer.py")

  def build(**model):
    plain = small.config(
      repa__weight=0.5,
      repa__projector_width=8,
      conditioning__reference="same_patient",
    ).to_dict()
    plain["model"] = {"name": "mixer", **model}
    plain["parallel"] = {"num_devices": 4, "data": 1, "fsdp": 2, "tensor": 2}
    return experiment_lib.build(plain)

  return build


def test_network_is_one_module(with_mixer, monkeypatch):
  # So that its small kernels are split too.
  monkeypatch.setattr(sharding, "FSDP_FLOOR", 64)
  experiment = with_mixer(width=16)
  dataset = dataset_lib.prepare(
    experiment.data, experiment.recipe.conditioner.needs, targets=experiment.targets
  )
  trainer = denoiser_trainer.make(experiment, dataset)
  batches, state = trainer.batches(0), trainer.programs.init()
  for _ in range(2):
    state, metrics = trainer.programs.train_step(state, next(batches))
  assert int(state.step) == 2
  assert {"loss", "repa_loss", "grad_norm"} <= set(metrics)
  kernel = state.params["mix"]["kernel"]
  assert kernel.shape == (16, 16)
  assert kernel.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
  assert trainer.validate(state.ema_params)["loss"] > 0


def test_network_fields_are_the_keys_of_the_config(with_mixer):
  with pytest.raises(errors.InputError, match=r"config\.model\.widht.*width"):
    with_mixer(widht=16)
  with pytest.raises(errors.InputError, match=r"'mixr'.*did you mean mixer"):
    with_mixer(name="mixr")
