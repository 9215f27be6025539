"""Inception-v3 for the Frechet inception distance: 2048 features per image.

image [b 299 299 3] in [-1, 1] -> stem [b 35 35 192] -> 3 A [b 35 35 288]
  -> B, 4 C [b 17 17 768] -> D, 2 E [b 8 8 2048] -> mean over places [b 2048]

The network of Szegedy et al. 2015 (1512.00567) in the form of TensorFlow's graph of
2015-12-05, on which Heusel et al. 2017 (1706.08500) defined the distance. It differs
from torchvision's network of that name: mean pooling excludes the padding, the last
block pools by maximum, and the weights differ. Names follow its weights in pytorch-fid
and torch-fidelity.
"""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax.models import frozen_norm

SIDE = 299
NUM_FEATURES = 2048


class InceptionV3(nn.Module):
  """The network up to its last pool."""

  @nn.compact
  def __call__(self, image: Array) -> Array:
    """Image [b 299 299 3] in [-1, 1] -> [b 2048] float32, none negative."""
    x = _conv("Conv2d_1a_3x3", image, 32, (3, 3), stride=2)
    x = _conv("Conv2d_2a_3x3", x, 32, (3, 3), padding="VALID")
    x = _conv("Conv2d_2b_3x3", x, 64, (3, 3))
    x = max_pool(x, stride=2)
    x = _conv("Conv2d_3b_1x1", x, 80)
    x = _conv("Conv2d_4a_3x3", x, 192, (3, 3), padding="VALID")
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
  """One, five and twice three pixels wide, at 35 x 35; `pooled` channels of means."""

  pooled: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w 224 + pooled]."""
    five = _chain("branch5x5", x, ((48, (1, 1)), (64, (5, 5))))
    three = _chain("branch3x3dbl", x, _TWICE_THREE)
    parts = [
      _conv("branch1x1", x, 64),
      five,
      three,
      _conv("branch_pool", mean_pool(x), self.pooled),
    ]
    return jnp.concatenate(parts, axis=-1)


class BlockB(nn.Module):
  """From 35 x 35 to 17 x 17."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h' w' c + 480]."""
    three = _chain("branch3x3dbl", x, _TWICE_THREE[:-1])
    parts = [
      _conv("branch3x3", x, 384, (3, 3), stride=2),
      _conv("branch3x3dbl_3", three, 96, (3, 3), stride=2),
      max_pool(x, stride=2),
    ]
    return jnp.concatenate(parts, axis=-1)


class BlockC(nn.Module):
  """Seven pixels wide and high in turn, at 17 x 17, with `width` channels between."""

  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w 768]."""
    wide, high, width = (1, 7), (7, 1), self.width
    once = ((width, (1, 1)), (width, wide), (192, high))
    twice = ((width, (1, 1)), (width, high), (width, wide), (width, high), (192, wide))
    parts = [
      _conv("branch1x1", x, 192),
      _chain("branch7x7", x, once),
      _chain("branch7x7dbl", x, twice),
      _conv("branch_pool", mean_pool(x), 192),
    ]
    return jnp.concatenate(parts, axis=-1)


class BlockD(nn.Module):
  """From 17 x 17 to 8 x 8."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h' w' c + 512]."""
    seven = ((192, (1, 1)), (192, (1, 7)), (192, (7, 1)))
    three = _conv("branch3x3_1", x, 192)
    long = _chain("branch7x7x3", x, seven)
    parts = [
      _conv("branch3x3_2", three, 320, (3, 3), stride=2),
      _conv("branch7x7x3_4", long, 192, (3, 3), stride=2),
      max_pool(x, stride=2),
    ]
    return jnp.concatenate(parts, axis=-1)


class BlockE(nn.Module):
  """Three pixels wide beside three high, at 8 x 8; pools by maximum if `largest`."""

  largest: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w 2048]."""
    pooled = max_pool(x, padding="SAME") if self.largest else mean_pool(x)
    three = _conv("branch3x3_1", x, 384)
    double = _conv("branch3x3dbl_1", x, 448)
    double = _conv("branch3x3dbl_2", double, 384, (3, 3))
    parts = [
      _conv("branch1x1", x, 320),
      _conv("branch3x3_2a", three, 384, (1, 3)),
      _conv("branch3x3_2b", three, 384, (3, 1)),
      _conv("branch3x3dbl_3a", double, 384, (1, 3)),
      _conv("branch3x3dbl_3b", double, 384, (3, 1)),
      _conv("branch_pool", pooled, 192),
    ]
    return jnp.concatenate(parts, axis=-1)


class ConvNorm(nn.Module):
  """relu(norm(conv(x)))."""

  channels: int
  window: tuple[int, int]
  stride: int
  padding: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h' w' channels]."""
    options = {"strides": self.stride, "padding": self.padding}
    x = frozen_norm.conv("conv", self.channels, self.window, **options)(x)
    return nn.relu(frozen_norm.FrozenNorm(epsilon=1e-3, name="bn")(x))


_TWICE_THREE = ((64, (1, 1)), (96, (3, 3)), (96, (3, 3)))


def _conv(
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
    x = _conv(f"{name}_{number}", x, channels, window)
  return x


def mean_pool(x: Array) -> Array:
  """Means of 3 x 3 pixels, without the padding."""
  return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def max_pool(x: Array, *, stride: int = 1, padding: str = "VALID") -> Array:
  """Maximum of 3 x 3 pixels."""
  return nn.max_pool(x, (3, 3), (stride, stride), padding)
