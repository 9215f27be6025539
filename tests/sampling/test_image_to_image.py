"""Images from images: what the ends of strength, mask and inversion are."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.models import codec
from cxr_diffusion_jax.run.sample_section import SampleSettings
from cxr_diffusion_jax.sampling import generate, image_to_image
from cxr_diffusion_jax.sampling.image_to_image import INIT, MAKE, SOURCE, Plan
from cxr_diffusion_jax.training import experiment as experiment_lib

PLAIN = SampleSettings(sampler="ddim", num_steps=20, guidance=1.0)


def _apply(variables, x_t, t, context):
  """The exact velocity of normal data around the condition's mean token."""
  (stream,) = context
  t = t.reshape(-1, 1, 1, 1) / 1000
  mean = jnp.where(stream.mask[..., None], stream.tokens, 0).mean((1, 2))
  mean, alpha, sigma = mean.reshape(-1, 1, 1, 1), 1 - t, t
  gain = alpha * 0.01 / (alpha**2 * 0.01 + sigma**2)
  x0 = mean + gain * (x_t - alpha * mean)
  return variables["params"]["one"] * (x_t - x0) / jnp.maximum(sigma, 1e-6)


@pytest.fixture(scope="module")
def result(small):
  """`made(plan, settings, **fields)` -> images [2 8 8 1] of an exact denoiser."""
  experiment = experiment_lib.build(
    small.config(codec__name="haar", model__norm_groups=4)
  )
  denoiser = dataclasses.replace(experiment.recipe.denoiser, apply_fn=_apply)

  def run(plan: Plan | None, settings=PLAIN, **fields) -> np.ndarray:
    draw = None
    if plan is not None:
      settings = image_to_image.settings_of(settings, plan)
      draw = image_to_image.make_draw(denoiser, settings, plan)
    function = generate.make_generate(
      denoiser, settings, (4, 4, 4), experiment.mesh, draw
    )
    keys = generate.sample_keys(3, np.arange(2))
    return np.asarray(function({"one": jnp.float32(1)}, fields, keys))

  return run


def _decode(latent) -> np.ndarray:
  """Latents of one level of unscaled wavelets -> images."""
  haar = codec.Haar(levels=1, mean=(0.0,) * 4, std=(1.0,) * 4)
  return np.asarray(haar.decode(latent))


def _condition(value: float) -> np.ndarray:
  """An ELIXR-C map of this value everywhere."""
  return np.full((2, 8, 8, 1376), value, np.float32)


@pytest.fixture
def init() -> np.ndarray:
  """A latent [2 4 4 4] of the data."""
  rng = np.random.default_rng(0)
  return (0.2 + 0.1 * rng.standard_normal((2, 4, 4, 4))).astype(np.float32)


@pytest.fixture
def pixels(init) -> np.ndarray:
  return _decode(init)


def test_plan_of_full_strength_is_sampling_and_of_none_the_image(result, init, pixels):
  fields = {"elixrc": _condition(0.2), INIT: init}
  np.testing.assert_array_equal(result(Plan(), **fields), result(None, **fields))
  off = [
    np.abs(result(Plan(strength=strength), **fields) - pixels).mean()
    for strength in (0.05, 0.3, 0.6, 1.0)
  ]
  assert off == sorted(off)
  assert off[0] < 0.04 < 0.07 < off[-1]


def test_plan_with_a_mask_changes_only_masked_places(result, init, pixels):
  fields = {"elixrc": _condition(0.2), INIT: init}
  make = np.zeros((2, 8, 8, 1), bool)
  make[:, :4] = True
  plan = Plan(masked=True)
  some = result(plan, **fields, **{MAKE: make})
  np.testing.assert_allclose(some[~make], pixels[~make], atol=1e-6)
  assert np.abs(some - pixels)[make].mean() > 0.05
  every = result(plan, **fields, **{MAKE: np.ones_like(make)})
  np.testing.assert_array_equal(every, result(None, **fields))


def test_plan_with_inversion_returns_to_the_image(result, init, pixels):
  source = {f"{SOURCE}elixrc": _condition(0.2), INIT: init}
  lost = {}
  for num_steps, repeats in ((20, 1), (40, 1), (20, 8)):
    settings = dataclasses.replace(PLAIN, num_steps=num_steps)
    plan = Plan(inverted=True, repeats=repeats)
    back = result(plan, settings, elixrc=_condition(0.2), **source)
    lost[num_steps, repeats] = np.abs(back - pixels).max()
  assert 0.4 < lost[40, 1] / lost[20, 1] < 0.65
  assert lost[20, 8] < 0.1 * lost[20, 1]
  # Towards another mean it moves by the difference, and all else of it stays.
  many = dataclasses.replace(PLAIN, num_steps=80)
  moved = result(Plan(inverted=True), many, elixrc=_condition(0.4), **source)
  np.testing.assert_allclose(moved, _decode(init + 0.2), atol=0.04)


def test_evaluations_count_the_steps_of_the_strength():
  def steps(strength: float, num_steps: int) -> int:
    settings = dataclasses.replace(PLAIN, num_steps=num_steps)
    return image_to_image.settings_of(settings, Plan(strength=strength)).num_steps

  assert [steps(0.6, 25), steps(0.3, 10), steps(1, 7), steps(0.19, 10)] == [15, 3, 7, 1]
  plan = Plan(strength=0.5, inverted=True, repeats=3)
  assert image_to_image.evaluations(image_to_image.settings_of(PLAIN, plan), plan) == 30
  assert image_to_image.evaluations(PLAIN, Plan()) == 0
  with pytest.raises(errors.InputError, match=r"0.05 of 10 steps.*0.1 or more"):
    steps(0.05, 10)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"strength": 0.0}, "strength 0; expected above 0, at most 1"),
    ({"strength": 1.01}, "strength 1.01; expected above 0"),
    ({"strength": float("nan")}, "strength nan; expected above 0"),
    ({"repeats": 0}, "invert_repeats 0; expected 1 or more"),
    ({"masked": True, "inverted": True}, "invert with mask; expected one of them"),
  ],
)
def test_plan_refuses_wrong_values(values, message):
  with pytest.raises(errors.InputError) as caught:
    Plan(**values)
  assert message in str(caught.value)


@pytest.mark.parametrize(("sampler", "used"), [("unipc", "euler"), ("ddim", "ddim")])
def test_settings_of_an_inversion_use_its_own_steps(sampler, used):
  settings = dataclasses.replace(PLAIN, sampler=sampler)
  for plan, name in ((Plan(inverted=True), used), (Plan(strength=0.5), sampler)):
    assert image_to_image.settings_of(settings, plan).sampler == name


@pytest.mark.parametrize("sampler", ["ddpm", "euler_ancestral", "dpm_solver_2m_sde"])
def test_settings_of_an_inversion_refuse_fresh_noise(sampler):
  settings = dataclasses.replace(PLAIN, sampler=sampler)
  with pytest.raises(errors.InputError, match=f"{sampler}', which makes fresh noise"):
    image_to_image.settings_of(settings, Plan(inverted=True))
