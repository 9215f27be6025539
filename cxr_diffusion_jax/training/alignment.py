"""Representation alignment as a part of the loss, and the section `repa` of a config.

  features of layer l --projector--> -cos to a column of the same image, times `weight`

Yu et al. 2024 (2410.06940). The projector learns with the denoiser and lives in the
state beside it; sampling knows of neither it nor the column.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors, naming, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.encoders import base as encoders
from cxr_diffusion_jax.models import alignment as alignment_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepaSettings:
  """Whether and to what a denoiser's features are pulled.

  Attributes:
    weight: of the alignment in the loss; 0 for none, 0.5 in the paper.
    column: of an image's embedding: `elixrc` and `clip_patches` are maps, and aligned
      place by place; any other one is a vector, or the mean of its tokens.
    encoder: folder or hub id of the CLIP of a column `clip_*`, or "standin"; the
      path's own where empty.
    layer: of the denoiser, as its `feature_layer` counts; -1 for the middle of a UNet,
      or the end of the first third of a transformer's blocks.
    projector_width: of the projector's inner layers; 2048 in the paper.

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
  """The part of an objective that pulls features.

  Attributes:
    weight: of it in the loss.
    field: of a batch that it pulls to, [b *shape].
    grid: (rows, columns) of the field's places, None for one vector.
    num_leading: tokens before those of the grid.
    projector: from features to the field's width.
    needs: of the columns that this takes beside the path's own, or None.
    init_fn: (key) -> parameters of the projector.
  """

  weight: float
  field: str
  grid: tuple[int, int] | None
  num_leading: int
  projector: alignment_lib.Projector
  needs: conditioning.Needs | None
  init_fn: Callable[[jax.Array], types.Params]

  def target(self, batch: types.Batch) -> jax.Array:
    """What the features of a batch should resemble, [b n d] float32."""
    values = jnp.asarray(batch[self.field], jnp.float32)
    b, width = values.shape[0], values.shape[-1]
    tokens = values.reshape(b, -1, width)[:, self.num_leading :]
    return tokens if self.grid else tokens.mean(axis=1, keepdims=True)

  def losses(
    self, params: types.Params, features: jax.Array, target: jax.Array
  ) -> jax.Array:
    """The loss of each example.

    Args:
      params: of the projector.
      features: [b h w c] of the denoiser.
      target: of `target`, [b n d].

    Returns:
      [b] in [-1, 1].
    """
    places = alignment_lib.to_grid(features, self.grid)
    made = self.projector.apply({"params": params}, places)
    return alignment_lib.negative_cosine(made, target)


def tap(apply_fn: Callable[..., Any]) -> tuple[Callable[..., jax.Array], list]:
  """Makes a network give away its features.

  Args:
    apply_fn: of a Flax module with a `feature_layer`.

  Returns:
    The same function, and a list that each of its calls appends the features
    [b h w c] to. So whatever stands between network and loss need not know of them.
  """
  taken = []

  def tapped(variables, *inputs, **named):
    prediction, sown = apply_fn(variables, *inputs, **named, mutable=["intermediates"])
    taken.append(sown["intermediates"]["features"][0])
    return prediction

  return tapped, taken


def attach(
  settings: RepaSettings,
  model: Any,
  inputs: tuple[Any, ...],
  needs: conditioning.Needs,
) -> tuple[Any, Alignment | None]:
  """Makes a network give features, and the alignment that pulls them.

  Args:
    settings: with a weight of 0, nothing is changed.
    model: a Flax module with fields `feature_layer`.
    inputs: of one example, for their shapes.
    needs: of the run's path.

  Returns:
    The network, with the same parameters, and the alignment or None.

  Raises:
    errors.InputError: the network gives no features, or has no such layer; no CLIP is
      named for a column that a CLIP makes.
  """
  if not settings.weight:
    return model, None
  model = model.clone(feature_layer=_layer(settings, model))
  initialise = functools.partial(model.init, mutable=True)
  made = jax.eval_shape(initialise, jax.random.key(0), *inputs)
  (features,) = made["intermediates"]["features"]
  return model, build(settings, needs, features.shape[-1])


def build(
  settings: RepaSettings,
  needs: conditioning.Needs,
  feature_width: int,
) -> Alignment:
  """Makes the alignment of a run.

  Args:
    settings: with a weight above 0.
    needs: of the run's path.
    feature_width: channels of the network's features.

  Raises:
    errors.InputError: no CLIP is named for a column that a CLIP makes.
  """
  own = _target_needs(settings, needs)
  width, grid, num_leading = _layout(own.specs[0].shape)
  projector = alignment_lib.Projector(settings.projector_width, width)

  def init_fn(key: jax.Array) -> types.Params:
    return projector.init(key, jnp.zeros((1, feature_width)))["params"]

  # A path that reads this very column of the image itself brings it along.
  models = {spec.name: spec.model for spec in needs.specs}
  shared = needs.reference == "self" and settings.column in models
  shared = shared and own.specs[0].model == models[settings.column]
  return Alignment(
    weight=settings.weight,
    field=settings.column if shared else f"target_{settings.column}",
    grid=grid,
    num_leading=num_leading,
    projector=projector,
    needs=None if shared else own,
    init_fn=init_fn,
  )


def _layout(
  shape: tuple[int, ...],
) -> tuple[int, tuple[int, int] | None, int]:
  """Width of a column, its grid if it has one, and the tokens before that.

  Rows are a map [h w d], tokens [n d] or a vector [d]. Tokens are the class token and
  a square of patches where their number allows it.
  """
  *places, width = shape
  if len(places) == 2:
    return width, tuple(places), 0
  side = math.isqrt(max(math.prod(places) - 1, 0))
  if side and side**2 + 1 == math.prod(places):
    return width, (side, side), 1
  return width, None, 0


def _target_needs(
  settings: RepaSettings, needs: conditioning.Needs
) -> conditioning.Needs:
  """Needs of the target alone, made by the path's encoder where none is named."""
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


def _layer(settings: RepaSettings, model: Any) -> int:
  """The layer of a network whose features are taken."""
  if not hasattr(model, "feature_layer"):
    raise errors.InputError(
      f"config.repa.weight={settings.weight} for a {type(model).__name__}",
      "a denoiser that gives its features away",
      "set config.repa.weight to 0, or take another config.model.name",
    )
  transformer = hasattr(model, "depth")
  last = model.depth - 1 if transformer else len(model.block_channels)
  if not -1 <= settings.layer <= last:
    raise errors.InputError(
      f"config.repa.layer={settings.layer}", f"0 to {last}, or -1 to leave it open"
    )
  if settings.layer >= 0:
    return settings.layer
  return max(model.depth // 3 - 1, 0) if transformer else last
