"""DenseNet-121 for X-rays, as torchxrayvision trains it: findings, and 1024 features.

image [b 224 224 1] in [-1024, 1024] -> stem [b 56 56 64]
  -> 4 blocks of 6, 12, 24, 16 layers, each of which appends 32 channels; between
     blocks, half the channels and half the size -> [b 7 7 1024]
  -> norm, relu, mean over places [b 1024] -> linear [b 18]

Huang et al. 2017 (1608.06993), DenseNet-BC with growth 32; Cohen et al. 2022,
TorchXRayVision (2111.00595). Names follow its weights.
"""

from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.models import frozen_norm

SIDE = 224
NUM_FEATURES = 1024


class DenseNet(nn.Module):
  """The network.

  Attributes:
    layers: of each block.
    growth: channels that a layer adds.
    stem_channels: channels before the first block.
    num_outputs: number of independent logits.
  """

  layers: tuple[int, ...] = (6, 12, 24, 16)
  growth: int = 32
  stem_channels: int = 64
  num_outputs: int = 18

  @nn.compact
  def __call__(self, image: Array) -> tuple[Array, Array]:
    """Image [b h w 1] -> features [b d] >= 0, logits [b num_outputs], float32."""
    x = _Trunk(self.layers, self.growth, self.stem_channels, name="features")(image)
    features = nn.relu(x).mean(axis=(1, 2))
    return features, nn.Dense(self.num_outputs, name="classifier")(features)


class _Trunk(nn.Module):
  """All but the last layer; fields as of `DenseNet`."""

  layers: tuple[int, ...]
  growth: int
  stem_channels: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w 1] -> [b h/32 w/32 d]."""
    x = _conv("conv0", x, self.stem_channels, 7, stride=2)
    x = nn.relu(frozen_norm.FrozenNorm(name="norm0")(x))
    # Flax annotates only the names of paddings.
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
    for i, num_layers in enumerate(self.layers, 1):
      if i > 1:
        x = Transition(name=f"transition{i - 1}")(x)
      x = DenseBlock(num_layers, self.growth, name=f"denseblock{i}")(x)
    return frozen_norm.FrozenNorm(name="norm5")(x)


class DenseBlock(nn.Module):
  """Layers that each see the input and the output of all layers before."""

  num_layers: int
  growth: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w c + num_layers * growth], the input first."""
    for i in range(1, self.num_layers + 1):
      new = DenseLayer(self.growth, name=f"denselayer{i}")(x)
      x = jnp.concatenate([x, new], axis=-1)
    return x


class DenseLayer(nn.Module):
  """conv3(relu(norm(conv1(relu(norm(x)))))), with 4 x `growth` channels in between."""

  growth: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w growth]."""
    x = nn.relu(frozen_norm.FrozenNorm(name="norm1")(x))
    x = _conv("conv1", x, 4 * self.growth, 1)
    x = nn.relu(frozen_norm.FrozenNorm(name="norm2")(x))
    return _conv("conv2", x, self.growth, 3)


class Transition(nn.Module):
  """Half the channels, half the size."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h/2 w/2 c/2]."""
    x = nn.relu(frozen_norm.FrozenNorm(name="norm")(x))
    x = _conv("conv", x, x.shape[-1] // 2, 1)
    return nn.avg_pool(x, (2, 2), (2, 2))


def _conv(name: str, x: Array, channels: int, size: int, stride: int = 1) -> Array:
  """A convolution of the running module, padded equally on all sides."""
  window, padding = (size, size), size // 2
  return frozen_norm.conv(name, channels, window, strides=stride, padding=padding)(x)
