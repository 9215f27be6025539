"""The section `diffusion`: its recipes build and train, its mismatches are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default, sd15_finetune
from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.diffusion import preconditioning, schedule
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.run import denoiser as denoiser_lib
from cxr_diffusion_jax.run import diffusion_section, sections
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Unconditional:
  """No streams."""

  columns = ()
  streams = ()

  def __call__(self, batch: types.Batch) -> types.Context:
    del batch
    return ()


def _section(recipe: str) -> dict:
  """Plain values, as the reader of configs hands them on."""
  return sections.plain(default.get_config(f"tiny,{recipe}").diffusion)


def _network(variables, x, time, context, rngs=None):
  """a x + b time / 1000 + c."""
  del context, rngs
  p = variables["params"]
  return p["a"] * x + (p["b"] * time / 1000)[:, None, None, None] + p["c"]


def _objective(section: dict) -> step_lib.Objective:
  parts = diffusion_section.build(section)
  denoiser = denoiser_lib.Denoiser(
    apply_fn=_network,
    codec=codec_lib.Pixel(),
    conditioner=Unconditional(),
    process=parts.pop("process"),
    preconditioning=parts.pop("preconditioning"),
  )
  return step_lib.Objective(denoiser=denoiser, drop_rates=(), **parts)


def _params(**values: float) -> types.Params:
  return {name: jnp.float32(values.get(name, 0.0)) for name in "abc"}


@pytest.mark.parametrize("recipe", default.RECIPES)
def test_build_of_every_recipe_has_finite_losses(recipe):
  objective = _objective(_section(recipe))
  process = objective.denoiser.process
  x0 = jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
  t = objective.time_sampler(jax.random.key(1), 8, process.schedule)
  x_t, noise = process.corrupt(jax.random.key(2), x0, t)
  target = process.target(x0, noise, t)
  prediction = objective.denoiser.denoise_fn(_params(a=0.5))(x_t, t, ())
  losses = step_lib.losses(objective, prediction, target, t)
  assert np.all(np.isfinite(losses))
  assert np.all(losses > 0)


def test_build_makes_rectified_flow_by_default():
  flow = _section("flow")
  assert flow == sections.plain(default.get_config("tiny").diffusion)
  assert flow == {
    "schedule": {"name": "rectified_flow", "shift": 1.0},
    "prediction": "velocity",
    "preconditioning": {"name": "none"},
    "time_sampler": {
      "name": "logit_normal",
      "mean": 0.0,
      "std": 1.0,
      "shift": 0.0,
      "stratified": True,
    },
    "weighting": {"name": "uniform"},
  }
  # Configs of before the preconditioning are read as ever.
  flow.pop("preconditioning")
  around = diffusion_section.build(flow)["preconditioning"]
  assert around == preconditioning.Identity()


def test_diffusion_section_recipes_are_all_tested_and_others_refused():
  message = "'ddpm'; expected one of " + ", ".join(default.RECIPES)
  with pytest.raises(ValueError, match=message):
    default.get_config("small,ddpm")
  assert default.get_config("small,ddpm_v_zero_snr").sample.guidance_rescale == 0.7
  for recipe in default.RECIPES:
    sample = default.get_config(f"small,{recipe}").sample
    assert (sample.sampler, sample.spacing) == ("unipc", "spectrum")


def test_build_keeps_the_noise_levels_of_published_weights():
  section = sections.plain(sd15_finetune.get_config().diffusion)
  path = diffusion_section.build(section)["process"].schedule
  assert path == schedule.ScaledLinear()


def test_build_with_edm_learns_the_best_network():
  """Data N(0, 1) and sigma_data 1: skipping is exact, the network has to be silent."""
  objective = _objective(_section("edm"))
  optimizer = optax.adam(0.05)
  state = state_lib.create(_params(a=0.8, c=0.4), optimizer.init)

  @jax.jit
  def update(state, image):
    return step_lib.train_step(
      objective,
      optimizer,
      state,
      {"image": image},
      seed=0,
      ema_decay=0.9,
      accumulation=1,
    )

  images = np.random.default_rng(0).normal(size=(160, 32, 4, 4, 1)).astype(np.float32)
  losses = []
  for image in images:
    state, reported = update(state, image)
    losses.append(float(reported["loss"]))
  for name, value in state.params.items():
    # Most times lie close together, where b and c can make up for each other.
    assert abs(value) < 0.15, name
  # Of a target of variance 1 nothing can be known.
  assert losses[0] > 1.5
  np.testing.assert_allclose(np.mean(losses[-20:]), 1, atol=0.1)


def test_build_reads_importance_and_its_lists():
  section = _section("flow") | {
    "time_sampler": {
      "name": "importance",
      "logsnr": [-3.0, 3.0],
      "profile": [1.0, 0.5],
      "uniform": 0.2,
    }
  }
  sampler = diffusion_section.build(section)["time_sampler"]
  assert sampler.logsnr == (-3, 3)
  assert float(sampler.weight(0.5, schedule.RectifiedFlow())) > 0


@pytest.mark.parametrize(
  ("recipe", "change", "message"),
  [
    (
      "edm",
      {"prediction": "epsilon"},
      "preconditioning 'edm' with prediction 'epsilon'; expected 'x0'",
    ),
    (
      "edm",
      {"weighting": {"name": "edm", "sigma_data": 0.5}},
      "preconditioning.sigma_data=1.0 and weighting.sigma_data=0.5",
    ),
    (
      "flow",
      {"schedule": {"name": "vp", "shift": 1.0}},
      "unknown key config.diffusion.schedule.shift",
    ),
    (
      "flow",
      {"schedule": {"name": "vp", "shift": 1.0}},
      "fix: another name takes other keys; a recipe sets all that go together",
    ),
    ("flow", {"schedule": {"name": "edm", "rho": 0.0}}, "rho=0.0; expected above 0"),
    (
      "flow",
      {"preconditioning": {"name": "vp"}},
      "preconditioning 'vp'; expected",
    ),
    ("flow", {"recipe": "edm"}, "unknown key config.diffusion.recipe"),
  ],
)
def test_build_refuses_incompatible_settings(recipe, change, message):
  with pytest.raises(errors.InputError) as caught:
    diffusion_section.build(_section(recipe) | change)
  assert message in str(caught.value)
