"""The classifier's shapes, its independence of the batch, and what it can see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import classifier as classifier_lib

SMALL = classifier_lib.Classifier(
  num_classes=3, widths=(4, 8), stem_stride=2, norm_groups=2
)


def _image(seed, *shape):
  return jax.random.uniform(jax.random.key(seed), shape, minval=-1, maxval=1)


@pytest.fixture(scope="module")
def params():
  return jax.jit(SMALL.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))


def test_classifier_is_small_and_gives_a_logit_per_finding():
  classifier = classifier_lib.Classifier()
  logits, params = jax.eval_shape(
    classifier.init_with_output, jax.random.key(0), jnp.zeros((2, 64, 64, 1))
  )
  assert logits.shape == (2, 14)
  assert logits.dtype == jnp.float32
  # Nothing but parameters: no statistics of batches.
  assert set(params) == {"params"}
  assert 3e5 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 1e6


def test_classifier_halves_the_size_once_a_stage():
  deep = SMALL.clone(widths=(4, 8, 8), blocks=2)
  _, result = jax.eval_shape(
    lambda key, image: deep.init_with_output(key, image, capture_intermediates=True),
    jax.random.key(0),
    jnp.zeros((2, 32, 32, 1)),
  )
  stages = {
    name: value["__call__"][0].shape
    for name, value in result["intermediates"].items()
    if name.startswith("stages")
  }
  assert stages == {
    "stages_0_0": (2, 16, 16, 4),
    "stages_0_1": (2, 16, 16, 4),
    "stages_1_0": (2, 8, 8, 8),
    "stages_1_1": (2, 8, 8, 8),
    "stages_2_0": (2, 4, 4, 8),
    "stages_2_1": (2, 4, 4, 8),
  }


def test_classifier_judges_each_image_alone(params):
  images = _image(1, 4, 16, 16, 1)
  apply_fn = jax.jit(SMALL.apply)
  together = apply_fn(params, images)
  # The same image stands among others, and among itself.
  for i in range(4):
    alone = apply_fn(params, jnp.repeat(images[i : i + 1], 4, axis=0))
    np.testing.assert_allclose(alone, jnp.broadcast_to(together[i], (4, 3)), atol=1e-5)
  assert np.ptp(together, axis=0).min() > 1e-3


@pytest.mark.parametrize("shape", [(1, 32, 32, 1), (2, 17, 23, 1), (1, 4, 4, 1)])
def test_classifier_takes_any_size(params, shape):
  result = jax.eval_shape(SMALL.apply, params, jnp.zeros(shape))
  assert result.shape == (shape[0], 3)


def test_classifier_sees_small_findings_anywhere(params):
  # A dot is lost in the mean of a large image, not in the maximum over its places.
  apply_fn = jax.jit(SMALL.apply)
  empty = np.zeros((1, 64, 64, 1), np.float32)
  dot, elsewhere = empty.copy(), empty.copy()
  dot[:, 20:24, 20:24] = elsewhere[:, 40:44, 28:32] = 1
  of_empty, of_dot, of_elsewhere = (
    np.asarray(apply_fn(params, image)) for image in (empty, dot, elsewhere)
  )
  assert np.abs(of_dot - of_empty).max() > 0.1
  np.testing.assert_allclose(of_dot, of_elsewhere, atol=0.1)


def test_classifier_depends_on_every_pixel_and_parameter(params):
  def total(params, image):
    return jnp.square(SMALL.apply(params, image)).sum()

  grad_fn = jax.jit(jax.grad(total, argnums=(0, 1)))
  of_params, of_image = grad_fn(params, _image(3, 1, 16, 16, 1))
  assert (np.abs(of_image) > 0).all()
  for path, leaf in jax.tree_util.tree_leaves_with_path(of_params):
    assert np.abs(leaf).max() > 0, path


def test_classifier_gradients_are_finite_for_equal_places(params):
  grad_fn = jax.jit(jax.grad(lambda params, image: SMALL.apply(params, image).sum()))
  for image in (jnp.zeros((1, 16, 16, 1)), jnp.ones((1, 16, 16, 1))):
    grads = grad_fn(params, image)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
