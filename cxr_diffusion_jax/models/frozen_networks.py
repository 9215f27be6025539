"""Published convolutional networks, exact enough to match other implementations.

InceptionV3   image [b 299 299 3] in [-1, 1] -> stem [b 35 35 192] -> 3 A [b 35 35 288]
  -> B, 4 C [b 17 17 768] -> D, 2 E [b 8 8 2048] -> mean over places [b 2048]
DenseNet      image [b 224 224 1] in [-1024, 1024] -> stem [b 56 56 64] -> 4 blocks of
  6, 12, 24, 16 layers, each of which appends 32 channels; between blocks, half the
  channels and half the size -> [b 7 7 1024] -> norm, relu, mean over places [b 1024]

Inception (Szegedy et al. 2015, 1512.00567) has the form of TensorFlow's graph of
2015-12-05, on which Heusel et al. 2017 (1706.08500) defined their distance. It differs
from torchvision's network of that name: mean pooling excludes the padding, the last
block pools by maximum, and the weights differ. Its names follow the weights in
pytorch-fid and torch-fidelity. DenseNet-BC-121 (Huang et al. 2017, 1608.06993) is as
TorchXRayVision trains it on X-rays (Cohen et al. 2022, 2111.00595).
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp

INCEPTION_SIDE, INCEPTION_FEATURES = 299, 2048
DENSENET_SIDE, DENSENET_FEATURES = 224, 1024


class FrozenNorm(nn.Module):
  """Batch normalisation (Ioffe and Szegedy 2015) with the statistics of its training.

  y = (x - mean) / sqrt(variance + epsilon) * scale + bias. All four arrays are
  parameters: there is no state, so an image's features do not depend on its batch.
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[... c] -> [... c]."""
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    inits = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
    scale, bias, mean, variance = (
      self.param(name, init, x.shape[-1:]) for name, init in inits.items()
    )
    factor = scale * jax.lax.rsqrt(variance + self.epsilon)
    return x * factor + (bias - mean * factor)


def _conv(
  name: str,
  x: Array,
  channels: int,
  window: tuple[int, int],
  stride: int = 1,
  padding: str | int = "SAME",
) -> Array:
  """A convolution without bias, in the highest precision, of the running module."""
  precision = jax.lax.Precision.HIGHEST
  conv = nn.Conv(
    channels, window, stride, padding, use_bias=False, precision=precision, name=name
  )
  return conv(x)


class InceptionV3(nn.Module):
  """The network up to its last pool."""

  @nn.compact
  def __call__(self, image: Array) -> Array:
    """Image [b 299 299 3] in [-1, 1] -> [b 2048] float32, none negative."""
    x = _conv_norm("Conv2d_1a_3x3", image, 32, (3, 3), stride=2)
    x = _conv_norm("Conv2d_2a_3x3", x, 32, (3, 3), padding="VALID")
    x = _conv_norm("Conv2d_2b_3x3", x, 64, (3, 3))
    x = max_pool(x, stride=2)
    x = _conv_norm("Conv2d_3b_1x1", x, 80)
    x = _conv_norm("Conv2d_4a_3x3", x, 192, (3, 3), padding="VALID")
    x = max_pool(x, stride=2)
    for name, width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
      x = BlockA(width, name=name)(x)
    x = BlockB(name="Mixed_6a")(x)
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
      x = BlockC(width, name=f"Mixed_{name}")(x)
    x = BlockD(name="Mixed_7a")(x)
    x = BlockE(name="Mixed_7b")(x)
    x = BlockE(largest=True, name="Mixed_7c")(x)
    return x.mean(axis=(1, 2))


class BlockA(nn.Module):
  """[b h w c] -> [b h w 224 + pooled]: one, five and twice three pixels wide."""

  pooled: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    parts = [
      _conv_norm("branch1x1", x, 64),
      _chain("branch5x5", x, ((48, (1, 1)), (64, (5, 5)))),
      _chain("branch3x3dbl", x, _TWICE_THREE),
      _conv_norm("branch_pool", mean_pool(x), self.pooled),
    ]
    return jnp.concatenate(parts, axis=-1)


class BlockB(nn.Module):
  """[b h w c] -> [b h' w' c + 480]: from 35 x 35 to 17 x 17."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    three = _chain("branch3x3dbl", x, _TWICE_THREE[:-1])
    parts = [
      _conv_norm("branch3x3", x, 384, (3, 3), stride=2),
      _conv_norm("branch3x3dbl_3", three, 96, (3, 3), stride=2),
      max_pool(x, stride=2),
    ]
    return jnp.concatenate(parts, axis=-1)


class BlockC(nn.Module):
  """[b h w c] -> [b h w 768]: seven pixels wide and high in turn."""

  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    wide, high, width = (1, 7), (7, 1), self.width
    once = ((width, (1, 1)), (width, wide), (192, high))
    twice = ((width, (1, 1)), (width, high), (width, wide), (width, high), (192, wide))
    parts = [
      _conv_norm("branch1x1", x, 192),
      _chain("branch7x7", x, once),
      _chain("branch7x7dbl", x, twice),
      _conv_norm("branch_pool", mean_pool(x), 192),
    ]
    return jnp.concatenate(parts, axis=-1)


class BlockD(nn.Module):
  """[b h w c] -> [b h' w' c + 512]: from 17 x 17 to 8 x 8."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    seven = ((192, (1, 1)), (192, (1, 7)), (192, (7, 1)))
    three = _conv_norm("branch3x3_1", x, 192)
    long = _chain("branch7x7x3", x, seven)
    parts = [
      _conv_norm("branch3x3_2", three, 320, (3, 3), stride=2),
      _conv_norm("branch7x7x3_4", long, 192, (3, 3), stride=2),
      max_pool(x, stride=2),
    ]
    return jnp.concatenate(parts, axis=-1)


class BlockE(nn.Module):
  """[b h w c] -> [b h w 2048]: three pixels wide beside three high."""

  largest: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    pooled = max_pool(x, padding="SAME") if self.largest else mean_pool(x)
    three = _conv_norm("branch3x3_1", x, 384)
    double = _chain("branch3x3dbl", x, ((448, (1, 1)), (384, (3, 3))))
    parts = [
      _conv_norm("branch1x1", x, 320),
      _conv_norm("branch3x3_2a", three, 384, (1, 3)),
      _conv_norm("branch3x3_2b", three, 384, (3, 1)),
      _conv_norm("branch3x3dbl_3a", double, 384, (1, 3)),
      _conv_norm("branch3x3dbl_3b", double, 384, (3, 1)),
      _conv_norm("branch_pool", pooled, 192),
    ]
    return jnp.concatenate(parts, axis=-1)


class ConvNorm(nn.Module):
  """[b h w c] -> [b h' w' channels]: relu(norm(conv(x)))."""

  channels: int
  window: tuple[int, int]
  stride: int
  padding: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = _conv("conv", x, self.channels, self.window, self.stride, self.padding)
    return nn.relu(FrozenNorm(epsilon=1e-3, name="bn")(x))


_TWICE_THREE = ((64, (1, 1)), (96, (3, 3)), (96, (3, 3)))


def _conv_norm(
  name: str,
  x: Array,
  channels: int,
  window: tuple[int, int] = (1, 1),
  *,
  stride: int = 1,
  padding: str = "",
) -> Array:
  """A `ConvNorm` of the running module; pads if the stride is 1."""
  padding = padding or ("SAME" if stride == 1 else "VALID")
  return ConvNorm(channels, window, stride, padding, name=name)(x)


def _chain(name: str, x: Array, layers: Sequence[tuple[int, tuple[int, int]]]) -> Array:
  """A sequence of `ConvNorm` NAME_1, NAME_2, ... from (channels, window)."""
  for number, (channels, window) in enumerate(layers, 1):
    x = _conv_norm(f"{name}_{number}", x, channels, window)
  return x


def mean_pool(x: Array) -> Array:
  """Means of 3 x 3 pixels, without the padding."""
  return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def max_pool(x: Array, *, stride: int = 1, padding: str = "VALID") -> Array:
  """Maximum of 3 x 3 pixels."""
  return nn.max_pool(x, (3, 3), (stride, stride), padding)


class DenseNet(nn.Module):
  """Features and logits of findings.

  Attributes:
    layers: of each block; each layer adds `growth` channels.
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
  """All but the last layer of `DenseNet`: [b h w 1] -> [b h/32 w/32 d]."""

  layers: tuple[int, ...]
  growth: int
  stem_channels: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = _conv("conv0", x, self.stem_channels, (7, 7), 2, padding=3)
    x = nn.relu(FrozenNorm(name="norm0")(x))
    # Flax annotates only the names of paddings.
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
    for i, num_layers in enumerate(self.layers, 1):
      if i > 1:
        x = Transition(name=f"transition{i - 1}")(x)
      x = DenseBlock(num_layers, self.growth, name=f"denseblock{i}")(x)
    return FrozenNorm(name="norm5")(x)


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
    x = nn.relu(FrozenNorm(name="norm1")(x))
    x = _conv("conv1", x, 4 * self.growth, (1, 1))
    x = nn.relu(FrozenNorm(name="norm2")(x))
    return _conv("conv2", x, self.growth, (3, 3))


class Transition(nn.Module):
  """[b h w c] -> [b h/2 w/2 c/2]: half the channels, half the size."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.relu(FrozenNorm(name="norm")(x))
    x = _conv("conv", x, x.shape[-1] // 2, (1, 1))
    return nn.avg_pool(x, (2, 2), (2, 2))
