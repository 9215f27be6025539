"""The adversary: one logit a patch, which depends on that patch of that image alone."""

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.extras.autoencoder import objective


def test_patch_discriminator_of_three_layers_sees_70_pixels():
  network = objective.PatchDiscriminator()
  shape = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
  logits = jax.eval_shape(network.apply, shape, jnp.zeros((2, 256, 128, 1)))
  assert logits.shape == (2, 30, 14, 1)
  # Strides 2, 2, 2, 1, 1 of windows of 4, from the last to the first.
  field = 1
  for stride in (1, 1, 2, 2, 2):
    field = (field - 1) * stride + 4
  assert field == 70


def test_patch_discriminator_judges_each_image_alone():
  network = objective.PatchDiscriminator(channels=2, num_layers=1, norm_groups=2)
  images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 1)))
  variables = jax.jit(network.init)(jax.random.key(0), images)
  apply = jax.jit(network.apply)
  together = apply(variables, images)
  alone = apply(variables, images.at[1].set(0.0))
  np.testing.assert_allclose(together[0], alone[0], atol=1e-6)
  assert np.abs(together[1] - alone[1]).max() > 1e-3
