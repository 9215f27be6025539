"""Augmentation changes images as it says, and the network is given the changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import elixr_c, findings
from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import augmentation, model_section
from cxr_diffusion_jax.run import recipe as recipe_lib
from cxr_diffusion_jax.training import experiment as experiment_lib

SIDE = 51


def spot(row: int, column: int) -> np.ndarray:
  """A small bright disc on black, [1 s s 1]."""
  rows, columns = np.mgrid[:SIDE, :SIDE]
  near = (rows - row) ** 2 + (columns - column) ** 2
  return (2 * np.exp(-near / 8) - 1).astype(np.float32)[None, :, :, None]


def centre(image: jax.Array) -> np.ndarray:
  """Where the light of an image [s s 1] is: (row, column)."""
  light = np.asarray(image)[..., 0] + 1
  rows, columns = np.mgrid[:SIDE, :SIDE]
  return np.array([(rows * light).sum(), (columns * light).sum()]) / light.sum()


def changed(image: np.ndarray, *changes: float) -> jax.Array:
  return augmentation.change(jnp.asarray(image), jnp.array([changes]))[0]


def test_change_of_zero_is_the_image():
  image = np.random.default_rng(0).uniform(-1, 1, (2, 8, 10, 1)).astype(np.float32)
  got = augmentation.change(jnp.asarray(image), jnp.zeros((2, 4)))
  np.testing.assert_allclose(got, image, atol=1e-5)


def test_change_shifts_by_parts_of_the_side():
  got = centre(changed(spot(25, 25), 0, 0.5, -1, 0))
  np.testing.assert_allclose(got - 25, [0.02 * SIDE, -0.04 * SIDE], atol=0.05)


def test_change_rotates_clockwise_about_the_centre():
  # Right of the centre: clockwise is down.
  got = centre(changed(spot(25, 40), 1, 0, 0, 0)) - 25
  angle = np.radians(5)
  np.testing.assert_allclose(got, [15 * np.sin(angle), 15 * np.cos(angle)], atol=0.1)


def test_change_scales_the_contrast_and_stays_in_range():
  image = np.full((1, 8, 8, 1), 0.5, np.float32)
  np.testing.assert_allclose(changed(image, 0, 0, 0, -1), 0.45, rtol=1e-5)
  assert np.abs(changed(np.sign(image), 0, 0, 0, 1)).max() == 1


def test_augment_changes_a_share_and_its_tokens_tell_what_was_done():
  images = jnp.asarray(np.tile(spot(20, 30), (200, 1, 1, 1)))
  got, stream = augmentation.augment(jax.random.key(0), images, 0.3)
  mask = np.asarray(stream.mask[:, 0])
  assert 0.2 < mask.mean() < 0.4
  np.testing.assert_array_equal(np.asarray(got)[~mask], images[~mask])
  sines, cosines = np.split(np.asarray(stream.tokens[:, 0]), 2, axis=1)
  changes = np.arctan2(sines, cosines) * 2 / np.pi
  np.testing.assert_allclose(got, augmentation.change(images, changes), atol=1e-4)
  assert np.abs(changes[mask]).max(axis=0).min() > 0.8
  assert not changes[~mask].any()


@pytest.mark.parametrize("size", ["tiny", "dit_tiny", "edm2_tiny"])
def test_build_accepts_contexts_with_and_without_the_token(size):
  config = findings.get_config(size)
  config.data.augment = 0.5
  recipe = recipe_lib.build(config)
  streams = (*recipe.conditioner.streams, augmentation.STREAM)
  x_t, t, context = model_section.empty_inputs(recipe.latent_shape, streams)
  params = jax.eval_shape(recipe.init_fn, jax.random.key(0))
  assert "project_augmentation" in params["context_embedder"]
  for given in (context, context[:-1]):
    out = jax.eval_shape(recipe.network.apply, {"params": params}, x_t, t, given)
    assert out.shape == x_t.shape
  # Guidance and drop rates know the path's own streams alone.
  assert [stream.name for stream in recipe.conditioner.streams] == ["findings"]
  with pytest.raises(errors.InputError, match="a context of streams"):
    jax.eval_shape(recipe.network.apply, {"params": params}, x_t, t, ())


def test_build_refuses_augmentation_of_latents_and_shares_out_of_range():
  config = elixr_c.get_config("kl_tiny")
  config.data.augment = 0.5
  with pytest.raises(errors.InputError, match=r"config\.data\.augment=0\.5 with lat"):
    experiment_lib.build(config)
  config = findings.get_config("tiny")
  config.data.augment = 1.5
  with pytest.raises(errors.InputError, match=r"config\.data\.augment=1\.5; expected"):
    experiment_lib.build(config)
