"""Images from a denoiser: noise and condition in, pixels out, in one compiled call.

recipe, settings --make_generator--> Generator; conditions, seed --generate--> images
key of a sample -> noise x_1 --Sampler(guidance(denoise_fn))--> x0 --decode--> image
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.models import placement
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
    scale: float | types.Array | None = None,
    negative: types.Batch | None = None,
    weak_params: types.Params | None = None,
  ) -> jax.Array:
    """Generates one image [h w 1] in [-1, 1] per condition: [b h w 1].

    Args:
      batch: fields [b ...] that the conditioner reads.
      keys: [b] typed keys.
      scale: replaces a single `settings.guidance`, so that one program serves all.
      negative: like `batch`, to guide away from, instead of the dropped condition.
      weak_params: parameters of an earlier checkpoint, for autoguidance.

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
  sampler = sample_section.make_sampler(
    settings, mode_variance=denoiser.codec.mode_variance
  )
  guide = guiding.make_guide(denoiser, settings)
  # A codec with a network decodes in a separate program: it may need smaller batches,
  # and its parameters are arguments.
  apart = bool(denoiser.codec.columns)

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  @placement.on_mesh(mesh)
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
  return cast(GenerateFn, lambda *inputs, **more: decode(generate(*inputs, **more)))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Generator:
  """A recipe and sample settings, ready to draw images."""

  recipe: recipe_lib.Recipe
  settings: SampleSettings
  # How to start from images, which the conditions then hold; None for noise.
  plan: image_to_image.Plan | None = None

  @functools.cached_property
  def compiled(self) -> GenerateFn:
    """See `make_generate`."""
    recipe, settings, draw = self.recipe, self.settings, None
    if self.plan is not None:
      draw = image_to_image.make_draw(recipe.denoiser, settings, self.plan)
    return make_generate(
      recipe.denoiser, settings, recipe.latent_shape, recipe.mesh, draw
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
    progress: types.Progress = types.no_progress,
    negative: Mapping[str, types.Array] | None = None,
    weak_params: types.Params | None = None,
    scale: float | None = None,
  ) -> np.ndarray:
    """Generates one image per condition, uint8 [n h w 1], in batches of one size.

    Args:
      fields: [n ...] that the conditioner reads.
      numbers: [n] int; image i's noise depends only on the seed and numbers[i].
      batch_size: rows per call; rounded up to a multiple that the mesh divides.
      negative: fields [n ...], or [1 ...] for all; others as of `GenerateFn`.

    Raises:
      errors.InputError: guidance that these inputs do not support.
    """
    n, mesh, by_row = len(numbers), self.recipe.mesh, {"batch": dict(fields)}
    keys = sample_keys(seed, numbers)
    if negative is not None:
      by_row["negative"] = {
        name: np.broadcast_to(value, (n, *np.shape(value)[1:]))
        for name, value in negative.items()
      }
    whole = {} if weak_params is None else {"weak_params": weak_params}
    if scale is not None:
      whole["scale"] = np.float32(scale)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    b = -(-min(batch_size, n) // parts) * parts
    images = []
    for rows, count in batches_lib.batch_rows(n, b):
      # Every process holds all conditions, unlike the batches of training.
      placed = {
        name: sharding.place_whole_batch(
          {field: np.asarray(value)[rows] for field, value in of_kind.items()}, mesh
        )
        for name, of_kind in by_row.items()
      }
      result = jax.device_get(self.compiled(params, keys=keys[rows], **placed, **whole))
      images.append(to_uint8(result[:count]))
      progress("images", rows[-1] + 1, n)
    return np.concatenate(images)


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


def to_uint8(images: np.ndarray) -> np.ndarray:
  """Maps [-1, 1] to 0..255."""
  return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)
