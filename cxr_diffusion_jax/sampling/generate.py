"""Images from a denoiser: noise and condition in, pixels out, in one compiled call.

recipe, settings --make_generator--> Generator; conditions, seed --generate--> images
key of a sample -> noise x_1 --Sampler(guidance(denoise_fn))--> x0 --decode--> image
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.parallel import batches as batches_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import recipe as recipe_lib
from cxr_diffusion_jax.run import sample_section
from cxr_diffusion_jax.sampling import decoding, guiding, image_to_image

# Re-exported for callers of this module.
SampleSettings = sample_section.SampleSettings
evaluations = sample_section.evaluations


class GenerateFn(Protocol):
  """A compiled generator; each combination of optional arguments compiles once."""

  def __call__(
    self,
    params: types.Params,
    batch: types.Batch,
    keys: jax.Array,
    *,
    scale: types.Array | None = None,
    negative: types.Batch | None = None,
    weak_params: types.Params | None = None,
  ) -> jax.Array:
    """Generates one image per condition.

    Args:
      batch: fields [b ...] that the conditioner reads.
      keys: [b] typed keys.
      scale: replaces `settings.guidance`, so that one program serves all scales: [] or
        [b] for one scale, [s] or [b s] for one scale for each of s streams.
      negative: a batch like `batch`: a condition to guide away from, instead of the
        dropped one.
      weak_params: parameters of an earlier checkpoint, for autoguidance instead of
        classifier-free guidance.

    Returns:
      [b h w 1] in [-1, 1].

    Raises:
      errors.InputError: guidance that these inputs do not support.
    """
    ...


def make_generate(
  denoiser: denoiser_lib.Denoiser,
  settings: SampleSettings,
  latent_shape: tuple[int, int, int],
  mesh: jax.sharding.Mesh,
  draw: image_to_image.Draw | None = None,
) -> GenerateFn:
  """Builds the jitted function from conditions and keys to images.

  Args:
    latent_shape: (h, w, c) of what is denoised.
    mesh: a batch is split over it; every process gets all images.
    draw: replaces plain sampling from noise, see `image_to_image`.

  Raises:
    errors.InputError: a number of scales other than the number of streams, or pixel
      bounds for a latent.
  """
  guiding.check_streams(settings, denoiser.conditioner.streams)
  guiding.check_codec(settings, denoiser.codec)
  sampler = sample_section.make_sampler(settings)
  guide = guiding.make_guide(denoiser, settings)
  # A codec with a network decodes in a separate program: it may need smaller batches,
  # and its parameters are arguments.
  apart = bool(denoiser.codec.columns)

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def generate(params, batch, keys, *, scale=None, negative=None, weak_params=None):
    denoise_fn = guide(params, scale, negative, weak_params)
    noise_keys, step_keys = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, latent_shape))(noise_keys)
    if draw is None:
      context = denoiser.conditioner(batch)
      x0 = sampler(denoiser.process, denoise_fn, noise, context, step_keys)
    else:
      x0 = draw(denoise_fn, denoiser.denoise_fn(params), noise, batch, step_keys)
    return x0 if apart else jnp.clip(denoiser.codec.decode(x0), -1.0, 1.0)

  if not apart:
    return generate
  decode = decoding.make_decode(denoiser.codec, mesh)
  return lambda *inputs, **optional: decode(generate(*inputs, **optional))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Generator:
  """A recipe and sample settings, ready to draw images.

  Attributes:
    plan: how to start from images, which the conditions then hold; None for noise.
  """

  recipe: recipe_lib.Recipe
  settings: SampleSettings
  plan: image_to_image.Plan | None = None

  @functools.cached_property
  def compiled(self) -> GenerateFn:
    """See `make_generate`."""
    recipe, draw = self.recipe, None
    if self.plan is not None:
      draw = image_to_image.make_draw(recipe.denoiser, self.settings, self.plan)
    return make_generate(
      recipe.denoiser, self.settings, recipe.latent_shape, recipe.mesh, draw
    )

  def evaluations(self, *, weak: bool = False) -> int:
    """Evaluations of the network for one image; see `sample_section.evaluations`."""
    count = evaluations(self.settings, len(self.recipe.conditioner.streams), weak)
    if self.plan is not None:
      count += image_to_image.evaluations(self.settings, self.plan)
    return count

  def generate(
    self,
    params: types.Params,
    fields: Mapping[str, types.Array],
    *,
    seed: int,
    numbers: np.ndarray,
    batch_size: int = 16,
    **options: Any,
  ) -> np.ndarray:
    """Generates one image for each condition; see `generate_rows`.

    Args:
      fields: [n ...] that the conditioner reads.
      numbers: [n] int; image i's noise depends only on the seed and numbers[i].
      **options: see `generate_rows`.
    """
    return generate_rows(
      self.compiled,
      params,
      fields,
      sample_keys(seed, numbers),
      self.recipe.mesh,
      batch_size=batch_size,
      **options,
    )


def make_generator(
  recipe: recipe_lib.Recipe,
  changes: artifacts.JsonMapping | None = None,
  *,
  plan: image_to_image.Plan | None = None,
) -> Generator:
  """Builds a generator.

  Raises:
    errors.InputError: a setting out of range, or one that the plan excludes.
  """
  settings = dataclasses.replace(recipe.sample, **(changes or {}))
  if plan is not None:
    settings = image_to_image.settings_of(settings, plan)
  return Generator(recipe=recipe, settings=settings, plan=plan)


def sample_keys(seed: int, numbers: np.ndarray) -> jax.Array:
  """Returns one key per sample, from the seed and the sample's number alone."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
    denoiser_lib.stream_key(seed, denoiser_lib.SAMPLE_STREAM), jnp.asarray(numbers)
  )


def generate_rows(
  generate: GenerateFn,
  params: types.Params,
  conditions: Mapping[str, types.Array],
  keys: jax.Array,
  mesh: jax.sharding.Mesh,
  *,
  batch_size: int,
  progress: types.Progress = types.no_progress,
  negative: Mapping[str, np.ndarray] | None = None,
  weak_params: types.Params | None = None,
  scale: float | tuple[float, ...] | np.ndarray | None = None,
) -> np.ndarray:
  """Generates one image per condition, in batches of one size.

  Args:
    conditions: fields [n ...] that the conditioner reads.
    batch_size: rows per call; rounded up to a multiple that the mesh divides.
    negative: fields [n ...], or [1 ...] for all, instead of the dropped condition.
    weak_params: parameters of an earlier checkpoint, for autoguidance.
    scale: replaces the settings' guidance: a number, or a tuple with one for each
      stream; or an array with one for each image, [n] or [n s].

  Returns:
    uint8 [n h w 1].

  Raises:
    ValueError: an array of scales for a different number of images.
    errors.InputError: guidance that these inputs do not support.
  """
  n = len(keys)
  optional = _optional_rows(n, negative, scale)
  # Parameters have no rows.
  whole = {} if weak_params is None else {"weak_params": weak_params}
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  b = -(-min(batch_size, n) // parts) * parts
  images = []
  for rows, count in batches_lib.batch_rows(n, b):
    batch = _place_rows(dict(conditions), rows, mesh)
    placed = _place_rows(optional, rows, mesh)
    result = jax.device_get(generate(params, batch, keys[rows], **placed, **whole))
    images.append(to_uint8(result[:count]))
    progress("images", rows[-1] + 1, n)
  return np.concatenate(images)


def to_uint8(images: np.ndarray) -> np.ndarray:
  """Maps [-1, 1] to 0..255."""
  return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def _optional_rows(
  n: int,
  negative: Mapping[str, np.ndarray] | None,
  scale: float | tuple[float, ...] | np.ndarray | None,
) -> artifacts.Json:
  """Returns those of `negative` and `scale` that are given, with n rows each."""
  rows = {}
  if negative is not None:
    rows["negative"] = {
      name: np.broadcast_to(value, (n, *np.shape(value)[1:]))
      for name, value in negative.items()
    }
  if isinstance(scale, np.ndarray):
    if scale.shape[:1] != (n,):
      raise ValueError(f"scale {scale.shape} for {n} images")
    rows["scale"] = scale.astype(np.float32)
  elif scale is not None:
    rows["scale"] = np.broadcast_to(np.float32(scale), (n, *np.shape(scale)))
  return rows


def _place_rows(inputs: Any, rows: np.ndarray, mesh: jax.sharding.Mesh) -> Any:
  """Places rows of a tree of arrays [n ...] on the devices of the mesh."""
  # Every process holds all conditions, unlike the batches of training.
  return jax.tree.map(
    lambda value: sharding.place_whole_batch({"rows": value[rows]}, mesh)["rows"],
    inputs,
  )
