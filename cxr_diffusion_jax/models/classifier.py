"""A small residual network that detects findings in an image.

image -> strided stem -> residual blocks, half the size a stage -> norm
      -> [mean over places, maximum over places] -> linear -> one logit a finding

Pre-activation blocks (He et al. 2016, 1603.05027) with group normalisation (Wu and He
2018, 1803.08494): an image's logits do not depend on its batch. The maximum keeps small
things in the image, the mean large ones.
"""

from flax import linen as nn
from jax import Array
import jax.numpy as jnp


class Classifier(nn.Module):
  """A multi-label classifier of grey images of any size from 2 x `stem_stride` on.

  Attributes:
    num_classes: number of independent logits.
    widths: channels of each stage; the first works at 1 / `stem_stride` of the size.
    blocks: residual blocks per stage.
    stem_stride: stride of the first convolution; its window is twice as wide.
    norm_groups: divides each width.
  """

  num_classes: int = 14
  widths: tuple[int, ...] = (16, 32, 64, 128)
  blocks: int = 1
  stem_stride: int = 2
  norm_groups: int = 8

  @nn.compact
  def __call__(self, image: Array) -> Array:
    """Image [b h w 1] in [-1, 1] -> logits [b num_classes] float32."""
    side, stride = 2 * self.stem_stride, self.stem_stride
    x = nn.Conv(self.widths[0], (side, side), strides=stride, name="stem")(image)
    for stage, width in enumerate(self.widths):
      for i in range(self.blocks):
        x = Block(
          width,
          stride=2 if stage and not i else 1,
          norm_groups=self.norm_groups,
          name=f"stages_{stage}_{i}",
        )(x)
    x = nn.GroupNorm(self.norm_groups, name="norm")(x)
    x = nn.relu(x)
    # Not `x.max`: its gradient divides by the number of places that equal the maximum,
    # which is 0 where XLA computes x twice with different rounding.
    largest = nn.max_pool(x, x.shape[1:3])[:, 0, 0]
    x = jnp.concatenate([x.mean(axis=(1, 2)), largest], axis=-1)
    # The input of the last layer, for callers that need features.
    self.sow("intermediates", "features", x)
    return nn.Dense(self.num_classes, name="head")(x)


class Block(nn.Module):
  """shortcut(x) + conv(relu(norm(conv(relu(norm(x)))))).

  The shortcut averages as many pixels as the first convolution's stride.
  """

  channels: int
  stride: int = 1
  norm_groups: int = 8

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h/stride w/stride channels], sizes rounded up."""

    def conv(name, x, size, stride=1):
      module = nn.Conv(self.channels, size, strides=stride, use_bias=False, name=name)
      return module(x)

    def active(name, x):
      norm = nn.GroupNorm(self.norm_groups, name=name)
      return nn.relu(norm(x))

    h = conv("conv1", active("norm1", x), (3, 3), self.stride)
    h = conv("conv2", active("norm2", h), (3, 3))
    if self.stride > 1:
      window = (self.stride, self.stride)
      x = nn.avg_pool(x, window, window, padding="SAME", count_include_pad=False)
    if x.shape[-1] != self.channels:
      x = conv("shortcut", x, (1, 1))
    return x + h
