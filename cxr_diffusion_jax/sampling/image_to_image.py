"""Images from images: start from a corrupted one, keep a part of it, or invert it.

  SDEdit      alpha x0 + sigma noise at t = strength --Sampler--> x0
  inpainting  the same, with known pixels restored after each step
  inversion   x0 --Euler backwards, source's condition--> x_t --Sampler, new one--> x0

Meng et al. 2021 (SDEdit, 2108.01073); see `diffusion.inpainting` and `.inversion`.
Each is a `draw` function for `generate.make_generate`; its inputs are fields of the
batch that no conditioner reads.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.diffusion import inpainting, inversion
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import sample_section

# (guided denoiser, unguided one, noise [b h w c], batch, keys [b]) -> data [b h w c]
Draw = Callable[
  [types.DenoiseFn, types.DenoiseFn, jax.Array, types.Batch, jax.Array], jax.Array
]

# Fields of a batch: the initial latent [b h w c], the mask [b H W 1] bool of pixels to
# generate, and the prefix of the fields of the source's condition.
INIT, MAKE, SOURCE = "init_latent", "init_make", "source_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """How an image is edited.

  Attributes:
    strength: the time to start from, in (0, 1], and the fraction of the settings' steps
      to run. 1 starts from pure noise; near 0 the image hardly changes.
    inverted: start from the noise that the ODE assigns to the image, so that only what
      the condition describes changes.

  Raises:
    errors.InputError: a value out of range, or incompatible values.
  """

  strength: float = 1.0
  masked: bool = False  # generate only the pixels of a mask
  inverted: bool = False
  repeats: int = 1  # evaluations for each step of the inversion

  def __post_init__(self):
    if not 0 < self.strength <= 1:
      raise errors.InputError(f"strength {self.strength:g}", "above 0, at most 1")
    if self.repeats < 1:
      raise errors.InputError(f"invert_repeats {self.repeats}", "1 or more")
    if self.masked and self.inverted:
      raise errors.InputError("invert with mask", "one of them")


def settings_of(
  settings: sample_section.SampleSettings, plan: Plan
) -> sample_section.SampleSettings:
  """Returns the settings with only the steps from the plan's strength on.

  An inversion is of Euler's steps (DDIM's), so an image is drawn with these too.

  Raises:
    errors.InputError: no step is left, or the sampler of an inversion adds noise.
  """
  # The margin absorbs rounding: 0.3 of 10 steps is 3.
  num_steps = int(settings.num_steps * plan.strength + 1e-6)
  if num_steps < 1:
    raise errors.InputError(
      f"strength {plan.strength:g} of {settings.num_steps} steps, which is no step",
      f"{1 / settings.num_steps:g} or more",
      "raise strength or num_steps",
    )
  settings = dataclasses.replace(settings, num_steps=num_steps)
  if plan.inverted and sample_section.make_sampler(settings).method.stochastic:
    raise errors.InputError(
      f"invert with the sampler {settings.sampler!r}, which makes fresh noise",
      "one that does not, such as ddim or euler",
      "name another sampler",
    )
  if plan.inverted and settings.sampler not in ("ddim", "euler"):
    settings = dataclasses.replace(
      settings, sampler="euler", eta=None, sampler_options=""
    )
  return settings


def evaluations(settings: sample_section.SampleSettings, plan: Plan) -> int:
  """Network evaluations for the inversion of one image; 0 without an inversion."""
  return settings.num_steps * plan.repeats if plan.inverted else 0


def make_draw(
  denoiser: denoiser_lib.Denoiser, settings: sample_section.SampleSettings, plan: Plan
) -> Draw:
  """Builds the `draw` function for `generate.make_generate`.

  Args:
    plan: how images are edited. Batches hold `INIT`, with a mask `MAKE`, and with an
      inversion the source's conditioner fields, prefixed with `SOURCE`.
  """
  sampler = sample_section.make_sampler(
    settings, start=plan.strength, mode_variance=denoiser.codec.mode_variance
  )
  process = denoiser.process

  def draw(
    denoise_fn: types.DenoiseFn,
    plain_fn: types.DenoiseFn,
    noise: jax.Array,
    batch: types.Batch,
    keys: jax.Array,
  ) -> jax.Array:
    grid = sampler.times.grid(process, sampler.num_steps)
    x0, constrain_fn = jnp.asarray(batch[INIT], jnp.float32), None
    # A sampler that begins at time 1 takes plain noise, and scales it itself.
    scale = grid.sigma[0] if plan.strength == 1 else 1.0
    start = noise
    if plan.inverted:
      source = denoiser.conditioner(source_of(batch))
      x_t = inversion.invert(process, plain_fn, x0, source, grid, repeats=plan.repeats)
      start = x_t / scale
    elif plan.strength < 1:
      start = grid.alpha[0] * x0 + grid.sigma[0] * noise
    if plan.masked:
      _, height, width, _ = x0.shape
      make = inpainting.to_places(jnp.asarray(batch[MAKE]), (height, width))
      fresh = sampler.method.stochastic
      constrain_fn = inpainting.keep_known(process, x0, make, noise, fresh=fresh)
    return sampler(
      process,
      denoise_fn,
      start,
      denoiser.conditioner(batch),
      keys,
      constrain_fn=constrain_fn,
    )

  return draw


def source_of(batch: types.Batch) -> types.Batch:
  """Returns the source's condition fields under the conditioner's names."""
  return {
    name.removeprefix(SOURCE): value
    for name, value in batch.items()
    if name.startswith(SOURCE)
  }
