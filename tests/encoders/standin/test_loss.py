"""The terms of the stand-in's loss: closed forms, bounds, and what they ignore."""

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.encoders.standin import loss as standin_loss

# Rows 0 and 2 say the same.
FINDINGS = np.array([[0, 0], [1, 0], [0, 0], [1, 1]], np.float32)


def test_same_content_holds_for_equal_findings():
  targets = np.asarray(standin_loss.same_content(FINDINGS))
  np.testing.assert_allclose(targets.sum(axis=1), 1)
  np.testing.assert_allclose(targets[0], [0.5, 0, 0.5, 0])
  np.testing.assert_allclose(targets[3], [0, 0, 0, 1])


def test_same_content_separates_unknown_from_known_findings():
  findings = np.array([[np.nan, 0], [0, 0], [np.nan, 0]], np.float32)
  targets = np.asarray(standin_loss.same_content(findings))
  np.testing.assert_allclose(targets, [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])


def test_contrast_is_zero_when_right_and_log_when_blind():
  targets = standin_loss.same_content(FINDINGS)
  perfect = jnp.where(targets > 0, 50.0, -50.0)
  assert abs(float(standin_loss.contrast(perfect, targets))) < 1e-5
  blind = float(standin_loss.contrast(jnp.zeros((4, 4)), targets))
  # log 4 above the mean entropy of the targets, (log 2 + log 2) / 4.
  np.testing.assert_allclose(blind, np.log(4) - np.log(2) / 2, rtol=1e-5)


def test_contrast_takes_both_directions_alike():
  targets = standin_loss.same_content(FINDINGS)
  logits = jax.random.normal(jax.random.key(0), (4, 4))
  np.testing.assert_allclose(
    standin_loss.contrast(logits, targets),
    standin_loss.contrast(logits.T, targets),
    rtol=1e-6,
  )


def test_augment_stays_in_range_and_never_flips():
  ramp = jnp.broadcast_to(
    jnp.linspace(40.0, 200.0, 32)[None, None, :, None], (6, 32, 32, 1)
  )
  changed = np.asarray(standin_loss.augment(jax.random.key(0), ramp))
  assert changed.shape == ramp.shape
  assert changed.min() >= 0
  assert changed.max() <= 255
  assert (np.diff(changed[:, :, :, 0], axis=2) >= 0).all()
  assert len({float(image.mean()) for image in changed}) == 6
