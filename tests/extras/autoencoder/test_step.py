"""An autoencoder's update: the gradients of the losses as they are written down."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_diffusion_jax.extras.autoencoder import objective as objective_lib
from cxr_diffusion_jax.extras.autoencoder import step as autoencoder_step
from cxr_diffusion_jax.extras.autoencoder import trainer as trainer_lib
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.run import denoiser as denoiser_lib

IMAGE = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)


def _features(frozen, image):
  """A frozen encoder: patches of 4x4 pixels, projected."""
  patches = image.reshape(image.shape[0], 2, 4, 2, 4).swapaxes(2, 3)
  states = patches.reshape(image.shape[0], 4, 16) @ frozen
  return (states,), states.mean(axis=1)


@pytest.fixture
def objective(build):
  """With an adversary of fixed weight, of which only the first update knows nothing."""
  experiment = build(
    discriminator__weight=0.3,
    discriminator__adaptive=False,
    discriminator__start_step=1,
    loss__kl_weight=0.1,
    loss__perceptual_weight=0.7,
    model__block_channels=(4,),
  )
  result = trainer_lib.make_objective(experiment)
  return objective_lib.Objective(**{**result.__dict__, "features_fn": _features})


def test_step_follows_the_gradient_of_the_losses(objective):
  frozen = jnp.asarray(np.random.default_rng(1).standard_normal((16, 5), np.float32))
  optimizer = optax.sgd(1.0)
  params = jax.jit(lambda key: trainer_lib.init_params(objective, key))(
    jax.random.key(0)
  )
  state = autoencoder_step.create(params, optimizer)
  update = jax.jit(
    lambda state: autoencoder_step.train_step(
      objective, optimizer, state, {"image": IMAGE}, frozen, seed=3, ema_decay=0.5
    )
  )

  def loss_of(params, adversary, step, weight):
    key = jax.random.fold_in(
      denoiser_lib.stream_key(3, denoiser_lib.TRAIN_STREAM), step
    )
    apply = objective.network.apply
    mean, logvar = apply({"params": params}, IMAGE, method="encode")
    noise_key = jax.random.split(key)[1]
    latent = autoencoder_lib.sample_posterior(noise_key, mean, logvar)
    result = apply({"params": params}, latent, method="decode")
    kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).sum() / IMAGE.size
    (a,), _ = _features(frozen, result)
    (b,), _ = _features(frozen, IMAGE)
    cosine = (a * b).sum(-1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1)
    likeness = jnp.abs(result - IMAGE).mean() + 0.7 * (2 - 2 * cosine).mean()
    return likeness + 0.1 * kl - weight * objective.logits(adversary, result).mean()

  expected = jax.jit(jax.grad(loss_of))
  for step, weight in ((0, 0.0), (1, 0.3)):
    before = state.params
    state, reported = update(state)
    grads = expected(before["autoencoder"], before["discriminator"], step, weight)
    moved = jax.tree.map(jnp.subtract, before, state.params)
    for a, b in zip(
      jax.tree.leaves(moved["autoencoder"]), jax.tree.leaves(grads), strict=True
    ):
      np.testing.assert_allclose(a, b, atol=2e-5)
    # The adversary learns from its first step on, and not before.
    largest = max(np.abs(x).max() for x in jax.tree.leaves(moved["discriminator"]))
    assert (largest > 0) == (step == 1)
    assert float(reported["adversarial_weight"]) == pytest.approx(weight)
    if not step:
      kept = jax.tree.leaves(state.ema_params)
      ends = zip(
        jax.tree.leaves(before["autoencoder"]),
        jax.tree.leaves(state.params["autoencoder"]),
        strict=True,
      )
      for average, (old, new) in zip(kept, ends, strict=True):
        # The first average keeps a tenth.
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, atol=1e-6)


def test_gradient_ratio_is_of_the_last_layer(objective):
  params = jax.jit(lambda key: trainer_lib.init_params(objective, key))(
    jax.random.key(0)
  )
  latent = jnp.ones((1, 8, 8, 2))
  by_image = jnp.ones((1, 8, 8, 1))

  @jax.jit
  def ratio(one, other):
    return objective_lib.gradient_ratio(
      objective, params["autoencoder"], latent, one, other
    )

  assert float(ratio(by_image, 4 * by_image)) == pytest.approx(0.25, rel=1e-4)
  assert float(ratio(-3 * by_image, by_image)) == pytest.approx(3, rel=1e-4)
  assert float(ratio(by_image, 0 * by_image)) == objective_lib.MAX_RATIO


def test_hinge_is_zero_beyond_its_margins():
  far = objective_lib.hinge(jnp.array([1.0, 5.0]), jnp.array([-1.0, -2.0]))
  assert float(far) == 0
  assert float(objective_lib.hinge(jnp.zeros(3), jnp.zeros(3))) == 1
  assert float(objective_lib.hinge(jnp.array([-1.0]), jnp.array([2.0]))) == 2.5


def test_crop_takes_parts_of_images_at_different_places():
  ramp = np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1)
  images = np.concatenate([ramp + 100 * i for i in range(6)])
  cuts = np.asarray(autoencoder_step.crop(jax.random.key(0), images, 4))[..., 0]
  corners = cuts[:, 0, 0] - 100 * np.arange(6)
  for cut, corner, i in zip(cuts, corners, range(6), strict=True):
    top, left = divmod(int(corner), 8)
    np.testing.assert_array_equal(cut, images[i, top : top + 4, left : left + 4, 0])
  assert len(set(corners)) > 1
  np.testing.assert_array_equal(
    autoencoder_step.crop(jax.random.key(0), images, 0), images
  )
