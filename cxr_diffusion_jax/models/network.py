"""What a denoising network declares; each module of `denoisers` defines one.

(x_t [b h w c], t [b] in [0, 1000), context) -> prediction [b h w out_channels]

The keys of `config.model` are the network's fields. Three fields follow from the rest
of the config: `out_channels`, `context_streams` and `dtype`.
"""

from collections.abc import Callable, Mapping, Sequence
import inspect
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.models import block_scan, placement
from cxr_diffusion_jax.types import Context

T = TypeVar("T")


class Network(Protocol):
  """A Flax Linen module that predicts from (x_t, t, context).

  x_t is [b h w c], t is [b] or a scalar, and the context has the streams of
  `context_streams`. The prediction is float32. Sizes that do not fit and other contexts
  raise errors.InputError. Where a network has a `dtype`, it is that of the computation;
  parameters, norms and softmax are float32. A network's `dropout` is the rate at which
  it drops activations where `apply` is given `rngs={'dropout': key}`.

  Attributes:
    tensor_parallel: layer name -> axis of its [inputs outputs] kernel that is split
      over the mesh's axis `tensor`; see `parallel.sharding`.
  """

  tensor_parallel: ClassVar[Mapping[str, int]]

  def init(
    self, rngs: Array, x_t: Array, t: Array, context: Context, **options: Any
  ) -> artifacts.JsonMapping: ...

  def apply(
    self,
    variables: artifacts.JsonMapping,
    x_t: Array,
    t: Array,
    context: Context,
    **options: Any,
  ) -> Array: ...

  def clone(self, **changes: Any) -> Self: ...


@runtime_checkable
class FeatureNetwork(Protocol):
  """A network that also returns intermediate features, which REPA needs.

  Attributes:
    feature_layer: the layer that is sown as `intermediates/features` [b h' w' c], from
      0 to `num_feature_layers` - 1; None for no features.
    num_feature_layers: how many layers there are to choose from.
    default_feature_layer: the layer that REPA uses unless the config names one.
  """

  feature_layer: int | None

  @property
  def num_feature_layers(self) -> int: ...

  @property
  def default_feature_layer(self) -> int: ...


class LevelFeatures:
  """The feature layers of a network of levels: each on the way down, and the middle."""

  block_channels: tuple[int, ...]

  @property
  def num_feature_layers(self) -> int:
    return len(self.block_channels) + 1

  @property
  def default_feature_layer(self) -> int:
    """The middle."""
    return len(self.block_channels)


def shared_fields(kind: type[T], source: object, **others: Any) -> T:
  """Makes a dataclass or a module from the fields of `source` that have its names.

  `others` are its other fields, and those that differ from `source`.
  """
  names = inspect.signature(kind).parameters.keys() - others.keys() - {"name", "parent"}
  return kind(
    **{name: getattr(source, name) for name in names if hasattr(source, name)}, **others
  )


def check_sides(sides: Sequence[int], divisor: int, what: str) -> None:
  """Raises errors.InputError unless the divisor divides both sides (h, w) of an input.

  `what` is the reason, such as '3 levels'.
  """
  if any(side % divisor for side in sides):
    raise errors.InputError(
      f"an input of {sides[0]}x{sides[1]} for {what}",
      f"sides that are multiples of {divisor}",
      "change the image size, the codec or the network",
    )


def check_least(network: nn.Module, **least: float) -> None:
  """Raises errors.InputError for a field, or an entry of one, that is below its least.

  Fields that are None are not checked.
  """
  for name, bound in least.items():
    value = getattr(network, name)
    for one in value if isinstance(value, tuple) else (value,):
      if one is not None:
        errors.require_range(f"config.model.{name}", one, bound)


def dropped(module: nn.Module, rate: float, x: Array) -> Array:
  """Zeroes a share of x and scales the rest, in a compact method (1207.0580).

  Only `apply` with `rngs={'dropout': key}` drops anything: training does, sampling and
  validation do not. A rate outside [0, 1) raises errors.InputError.
  """
  errors.require_range("config.model.dropout", rate, 0, 1)
  if not rate or not module.has_rng("dropout"):
    return x
  mask = nn.Dropout(rate, deterministic=False)(jnp.ones_like(x)) != 0
  # A mask takes longer to draw again than to read.
  mask = block_scan.kept(mask)
  return jnp.where(mask, x / (1 - rate), jnp.zeros_like(x))


def convolve(conv: Callable[[Array], Array], x: Array) -> Array:
  """conv(x), a convolution that TPUs do not fuse with what comes before and after.

  Fused, a norm and an activation would be computed once more for each tap that reads
  them, in float32, and compiling takes several times as long: docs/scaling.md.
  """
  if placement.platform() != "tpu":
    return conv(x)
  return jax.lax.optimization_barrier(conv(jax.lax.optimization_barrier(x)))


def sow_features(module: nn.Module, layer: int, features: Array) -> None:
  """Sows the output of a layer if it is the module's `feature_layer`."""
  if layer == module.feature_layer:
    module.sow("intermediates", "features", features)
