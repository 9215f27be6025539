"""A network is one module: it trains, with REPA, on any mesh, without other edits."""

import jax
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import denoisers
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.training import denoiser_trainer
from cxr_diffusion_jax.training import experiment as experiment_lib

MODULE = '''"""A network of two convolutions and the mean of the condition."""

from flax import linen as nn
import jax.numpy as jnp


class Mixer(nn.Module):
  """Predicts from (x_t, t, context).

  Attributes:
    width: number of channels.
  """

  out_channels: int = 4
  width: int = 8
  context_streams: tuple = ()
  feature_layer: int | None = None
  dtype: jnp.dtype = jnp.float32

  tensor_parallel = {"widen": 1}
  num_feature_layers = 1
  default_feature_layer = 0

  @nn.compact
  def __call__(self, x_t, t, context):
    x = nn.Conv(self.width, (3, 3), name="conv_in")(x_t)
    for spec, stream in zip(self.context_streams, context, strict=True):
      tokens = jnp.where(stream.mask[..., None], stream.tokens, 0).mean(axis=1)
      x += nn.Dense(self.width, name=f"widen_{spec.name}")(tokens)[:, None, None]
    x = nn.Dense(self.width, name="widen")(x)
    if self.feature_layer == 0:
      self.sow("intermediates", "features", x)
    return nn.Conv(self.out_channels, (3, 3), name="conv_out")(nn.silu(x))


NETWORK = Mixer
'''


@pytest.fixture
def with_mixer(tmp_path, monkeypatch, small):
  """The small config with the network of a module in a temporary folder."""
  (tmp_path / "mixer.py").write_text(MODULE)
  monkeypatch.setattr(denoisers, "__path__", [*denoisers.__path__, str(tmp_path)])

  def build(**model):
    plain = small.config(repa__weight=0.5, repa__projector_width=8).to_dict()
    plain["model"] = {"name": "mixer", **model}
    plain["parallel"] = {"num_devices": 4, "data": 1, "fsdp": 2, "tensor": 2}
    return experiment_lib.build(plain)

  return build


def test_a_network_is_one_module(with_mixer, dataset, monkeypatch):
  # So that its small kernels are split too.
  monkeypatch.setattr(sharding, "FSDP_FLOOR", 64)
  trainer = denoiser_trainer.make(with_mixer(width=16), dataset)
  batches, state = trainer.batches(0), trainer.programs.init()
  for _ in range(2):
    state, metrics = trainer.programs.train_step(state, next(batches))
  assert int(state.step) == 2
  assert {"loss", "repa_loss", "grad_norm"} <= set(metrics)
  kernel = state.params["widen"]["kernel"]
  assert kernel.shape == (16, 16)
  assert kernel.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
  assert trainer.validate(state.ema_params)["loss"] > 0


def test_its_fields_are_the_keys_of_the_config(with_mixer):
  with pytest.raises(errors.InputError, match=r"config\.model\.widht.*width"):
    with_mixer(widht=16)
  with pytest.raises(errors.InputError, match=r"'mixr'.*did you mean mixer"):
    with_mixer(name="mixr")
