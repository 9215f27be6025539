"""Representation alignment (REPA), a part of the loss: the section `repa` of a config.

  features of layer l --projector--> -cos to a column of the same image, times `weight`

Yu et al. 2024 (2410.06940). The projector is trained with the denoiser and stored in
the state beside it. Sampling needs neither it nor the column.
"""

from collections.abc import Callable
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors, naming, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.encoders import base as encoders
from cxr_diffusion_jax.models import alignment as alignment_lib
from cxr_diffusion_jax.models import network as network_lib
from cxr_diffusion_jax.run import denoiser as denoiser_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepaSettings:
  """The column that a denoiser's features are aligned with.

  Attributes:
    weight: weight of the alignment in the loss; 0 for none, 0.5 in the paper.
    column: embedding of the image: `elixrc` and `clip_patches` are aligned
      position by position, others as one vector, the mean of their tokens.
    encoder: folder or hub id of the CLIP of a column `clip_*`, or "standin"; the
      path's own if empty.
    layer: the denoiser's layer, counted as its `feature_layer`; -1 for its default (the
      middle of a UNet, the end of the first third of a transformer's blocks).
    projector_width: width of the projector's inner layers; 2048 in the paper.

  Raises:
    errors.InputError: a value out of range.
  """

  weight: float = 0.0
  column: str = "elixrc"
  encoder: str = ""
  layer: int = -1
  projector_width: int = 2048

  def __post_init__(self):
    if not 0 <= self.weight < math.inf:
      raise errors.InputError(f"config.repa.weight={self.weight}", "0 or more")
    if self.projector_width < 1:
      raise errors.InputError(
        f"config.repa.projector_width={self.projector_width}", "1 or more"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
  """The alignment term of an objective.

  Attributes:
    field: the target's field in a batch, [b *shape].
    grid: (rows, columns) of the field's positions; None for one vector.
    num_leading: tokens before those of the grid.
    needs: the column to read besides the path's own.
  """

  weight: float
  field: str
  grid: tuple[int, int] | None
  num_leading: int
  projector: alignment_lib.Projector
  needs: conditioning.Needs | None
  init_fn: Callable[[jax.Array], types.Params]

  def target(self, batch: types.Batch) -> jax.Array:
    """The target of a batch's features, [b n d] float32."""
    values = jnp.asarray(batch[self.field], jnp.float32)
    b, width = values.shape[0], values.shape[-1]
    tokens = values.reshape(b, -1, width)[:, self.num_leading :]
    return tokens if self.grid else tokens.mean(axis=1, keepdims=True)

  def losses(
    self, params: types.Params, features: jax.Array, target: jax.Array
  ) -> jax.Array:
    """Loss of each example, [b] in [-1, 1]."""
    places = alignment_lib.to_grid(features, self.grid)
    projected = self.projector.apply({"params": params}, places)
    return alignment_lib.negative_cosine(jnp.asarray(projected), target)


def predict_with_features(
  denoiser: denoiser_lib.Denoiser,
  params: types.Params,
  x_t: jax.Array,
  t: jax.Array,
  context: types.Context,
  dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns what `denoiser.denoise_fn` predicts, and features [b h w c].

  The denoiser's network must be one that `attach` returned.
  """
  x, time = denoiser.preconditioning.inputs(denoiser.process, x_t, t)
  answer, sown = denoiser.apply_fn(
    {"params": params},
    x,
    time,
    context,
    rngs={} if dropout_key is None else {"dropout": dropout_key},
    mutable=["intermediates"],
  )
  (features,) = sown["intermediates"]["features"]
  return denoiser.preconditioning.output(denoiser.process, x_t, t, answer), features


def attach(
  settings: RepaSettings,
  network: network_lib.Network,
  inputs: tuple[jax.Array, jax.Array, types.Context],
  needs: conditioning.Needs,
) -> tuple[network_lib.Network, Alignment | None]:
  """Selects a network's feature layer, and builds the alignment of its features.

  Args:
    settings: with a weight of 0, the network is returned unchanged.
    inputs: inputs of one example, for their shapes.

  Returns:
    The network with the same parameters, and the alignment or None.

  Raises:
    errors.InputError: the network returns no features, or has no such layer; no CLIP
      is named for a column that needs one; the column is the condition itself.
  """
  if not settings.weight:
    return network, None
  network = network.clone(feature_layer=_layer(settings, network))
  init = functools.partial(network.init, mutable=True)
  variables = jax.eval_shape(init, jax.random.key(0), *inputs)
  (features,) = variables["intermediates"]["features"]
  own = _target_needs(settings, needs)
  models = {spec.name: spec.model for spec in needs.specs}
  target = own.specs[0]
  if needs.reference == "self" and models.get(target.name) == target.model:
    raise errors.InputError(
      f"config.repa.column={settings.column!r}, which config.conditioning reads of the"
      " same image: the network would be aligned with its own input",
      "a column that is not the condition",
      "set config.repa.weight to 0, name another config.repa.column, or set"
      " config.conditioning.reference to another image",
    )
  width, grid, num_leading = _layout(own.specs[0].shape)
  projector = alignment_lib.Projector(settings.projector_width, width)

  def init_fn(key: jax.Array) -> types.Params:
    return projector.init(key, jnp.zeros((1, features.shape[-1])))["params"]

  alignment = Alignment(
    weight=settings.weight,
    field=f"target_{settings.column}",
    grid=grid,
    num_leading=num_leading,
    projector=projector,
    needs=own,
    init_fn=init_fn,
  )
  return network, alignment


def _layout(
  shape: tuple[int, ...],
) -> tuple[int, tuple[int, int] | None, int]:
  """Returns a column's width, its grid if any, and the number of tokens before it.

  Rows are a map [h w d], a vector [d], or tokens [n d]: a class token and a square of
  patches if their number allows it.
  """
  *places, width = shape
  if len(places) == 2:
    return width, (places[0], places[1]), 0
  side = math.isqrt(max(math.prod(places) - 1, 0))
  if side and side**2 + 1 == math.prod(places):
    return width, (side, side), 1
  return width, None, 0


def _target_needs(
  settings: RepaSettings, needs: conditioning.Needs
) -> conditioning.Needs:
  """Returns the target's needs, with the path's encoder unless one is named."""
  own = [spec for spec in needs.specs if spec.model]
  model, chunks = settings.encoder, 1
  if own and model in ("", own[0].model):
    model, chunks = own[0].model, own[0].chunks
  naming.check("config.repa.column", settings.column, encoders.columns())
  target = encoders.needs(settings.column, model=model, chunks=chunks)
  if target.text_columns:
    raise errors.InputError(
      f"config.repa.column={settings.column!r}", "a column made from images"
    )
  return target


def _layer(settings: RepaSettings, network: network_lib.Network) -> int:
  """Returns the index of the layer that supplies the features."""
  if not isinstance(network, network_lib.FeatureNetwork):
    raise errors.InputError(
      f"config.repa.weight={settings.weight} for a {type(network).__name__}",
      "a network with feature layers",
      "set config.repa.weight to 0, or choose another config.model.name",
    )
  last = network.num_feature_layers - 1
  if not -1 <= settings.layer <= last:
    raise errors.InputError(
      f"config.repa.layer={settings.layer}", f"0 to {last}, or -1 for the default"
    )
  return network.default_feature_layer if settings.layer < 0 else settings.layer
