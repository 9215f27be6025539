"""The arguments of a run's programs as shapes: nothing is allocated or read.

experiment --train_inputs--> (state, batch)   --sample_inputs--> (params, batch, keys)
"""

import dataclasses
import math
from typing import cast

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.sampling import generate
from cxr_diffusion_jax.training import experiment as experiment_lib


def condition(
  experiment: experiment_lib.Experiment, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """The fields [b ...] that the conditioning path reads."""
  conditioner = experiment.recipe.conditioner
  fields: dict[str, tuple[int, ...]] = {
    spec.name: spec.shape for spec in conditioner.needs.specs
  }
  if not fields:
    # A path without columns reads what every record has.
    shape = getattr(conditioner, "shape", ())
    fields = {"findings": shape, "view": (), "sex": (), "age": ()}
  return _placed(experiment, fields, batch_size)


def train_batch(
  experiment: experiment_lib.Experiment, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """The fields [b ...] of a training batch."""
  codec = experiment.recipe.codec
  height, width, channels = experiment.recipe.latent_shape
  side = experiment.config["data"]["image_size"]
  # A posterior's columns have means and log-variances.
  fields = dict.fromkeys(codec.columns, (height, width, 2 * channels))
  fields = fields or {"image": (side, side, 1)}
  if experiment.targets is not None:
    fields |= {f"target_{s.name}": s.shape for s in experiment.targets.specs}
  return condition(experiment, batch_size) | _placed(experiment, fields, batch_size)


def generator(experiment: experiment_lib.Experiment) -> jax.stages.Wrapped:
  """The sampler (params, condition, keys) -> images; latents for an autoencoder."""
  recipe = experiment.recipe.with_statistics({})
  if recipe.codec.columns:
    # It would decode in a program of its own.
    denoiser = dataclasses.replace(recipe.denoiser, codec=codec_lib.Pixel())
    recipe = dataclasses.replace(recipe, denoiser=denoiser)
  return cast(jax.stages.Wrapped, generate.make_generator(recipe).compiled)


def keys(batch_size: int) -> jax.ShapeDtypeStruct:
  """Typed keys [b], one for each sample."""
  return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))


def num_bytes(tree: types.Params) -> int:
  """Bytes of all arrays of a tree of shapes."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def chip_bytes(tree: types.Params) -> int:
  """Bytes that one device holds of a tree of shapes with shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def _placed(
  experiment: experiment_lib.Experiment,
  fields: dict[str, tuple[int, ...]],
  batch_size: int,
) -> dict[str, jax.ShapeDtypeStruct]:
  place = sharding.batch_sharding(experiment.mesh)
  return {
    name: jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32, sharding=place)
    for name, shape in fields.items()
  }
