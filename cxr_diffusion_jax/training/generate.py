"""Images from a denoiser: noise and condition in, pixels out, in one compiled call.

key a sample -> noise x_1 --Sampler(guidance(denoise_fn))--> x0 --decode--> image
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.diffusion import guidance as guidance_lib
from cxr_diffusion_jax.diffusion import sampler as sampler_lib
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings:
  """How images are drawn.

  Attributes:
    sampler: name of a sampler of `diffusion.sampler`.
    num_steps: its steps.
    guidance: scale of classifier-free guidance; 1 is the plain condition, 0 none.
    num_images: images in the picture that training makes at intervals.
  """

  sampler: str = "euler"
  num_steps: int = 25
  guidance: float = 2.0
  num_images: int = 8

  def __post_init__(self):
    sampler_lib.load(self.sampler)
    for name in ("num_steps", "num_images"):
      if getattr(self, name) < 1:
        raise errors.InputError(
          f"config.sample.{name}={getattr(self, name)}", "1 or more"
        )


# (params, batch of conditions [b], keys [b]) -> images [b h w 1] in [-1, 1]
GenerateFn = Callable[[types.Params, types.Batch, jax.Array], jax.Array]


def make_generate(
  objective: step_lib.Objective,
  settings: SampleSettings,
  latent_shape: tuple[int, int, int],
  mesh: jax.sharding.Mesh,
) -> GenerateFn:
  """Builds the jitted function from conditions and keys to images.

  Args:
    objective: what was trained.
    settings: sampler, steps and guidance.
    latent_shape: (h, w, c) of what is denoised.
    mesh: a batch is split over it; every process gets all images.
  """
  sampler = sampler_lib.load(settings.sampler)(num_steps=settings.num_steps)

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def generate(params, batch, keys):
    denoise_fn = objective.denoise_fn(params)
    if settings.guidance != 1.0:
      denoise_fn = guidance_lib.classifier_free(
        denoise_fn, conditioning.drop_all, settings.guidance
      )
    noise_keys, step_keys = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, latent_shape))(noise_keys)
    x0 = sampler(
      objective.process, denoise_fn, noise, objective.conditioner(batch), step_keys
    )
    return jnp.clip(objective.codec.decode(x0), -1.0, 1.0)

  return generate


def sample_keys(seed: int, numbers: np.ndarray) -> jax.Array:
  """Returns a key a sample: of the seed and the sample's number, never its batch."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
    step_lib.stream_key(seed, step_lib.SAMPLE_STREAM), jnp.asarray(numbers)
  )


def generate_rows(
  generate: GenerateFn,
  params: types.Params,
  conditions: Mapping[str, np.ndarray],
  keys: jax.Array,
  mesh: jax.sharding.Mesh,
  *,
  batch_size: int,
  progress: types.Progress = types.no_progress,
) -> np.ndarray:
  """Generates one image a condition, in batches of one size.

  Args:
    generate: of `make_generate`.
    params: averaged parameters.
    conditions: fields [n ...] that the conditioner reads.
    keys: [n] typed keys.
    mesh: of the run; batches are split over it.
    batch_size: rows a call; rounded up to what the mesh divides.
    progress: told after each batch.

  Returns:
    uint8 [n h w 1].
  """
  n = len(keys)
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  b = -(-min(batch_size, n) // parts) * parts
  images = []
  for start in range(0, n, b):
    # The last batch is filled up with its own last row, so that one shape compiles.
    rows = np.minimum(np.arange(start, start + b), n - 1)
    batch = {name: value[rows] for name, value in conditions.items()}
    # Every process holds all conditions, unlike the batches of training.
    placed = sharding.place_whole_batch(batch, mesh)
    made = jax.device_get(generate(params, placed, keys[rows]))
    images.append(to_uint8(made[: min(b, n - start)]))
    progress("images", min(start + b, n), n)
  return np.concatenate(images)


def to_uint8(images: np.ndarray) -> np.ndarray:
  """Maps [-1, 1] to 0..255."""
  return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)
