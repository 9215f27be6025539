"""Convolutions are the same sum in every form, with the same gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.models import convolution, placement


def draw(*shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(sum(shape)), shape)


def repeated(x: jax.Array) -> jax.Array:
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


@pytest.mark.parametrize(
  ("form", "expected", "side"),
  [
    (convolution.product, convolution.direct, 3),
    (convolution.product, convolution.direct, 1),
    (convolution.winograd, convolution.direct, 3),
    (convolution.phases, lambda x, k: convolution.direct(repeated(x), k), 3),
    (
      lambda x, k: convolution.conv_of_repeated(x, k, (1, 1), "SAME"),
      lambda x, k: convolution.direct(repeated(x), k),
      3,
    ),
  ],
)
def test_forms_have_the_values_and_gradients_of_the_direct_one(
  form: Callable, expected: Callable, side: int
):
  x, kernel = draw(2, 8, 12, 6), draw(side, side, 6, 5) / 8

  def loss_of(form):
    return lambda x, kernel: jnp.sum(jnp.sin(form(x, kernel)))

  same = {"rtol": 1e-5, "atol": 1e-5}
  np.testing.assert_allclose(form(x, kernel), expected(x, kernel), **same)
  gradients = [
    jax.grad(loss_of(one), argnums=(0, 1))(x, kernel) for one in (form, expected)
  ]
  for ours, theirs in zip(*gradients, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_winograd_is_the_same_in_strips(monkeypatch):
  x, kernel = draw(1, 16, 8, 4), draw(3, 3, 4, 3)
  monkeypatch.setattr(convolution, "_strips", lambda shape: 4)
  ours, theirs = convolution.winograd(x, kernel), convolution.direct(x, kernel)
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("side", "channels", "kernel", "dtype", "form"),
  [
    (64, 320, 3, jnp.float32, "direct"),
    (16, 1280, 3, jnp.float32, "product"),
    (128, 512, 3, jnp.float32, "winograd"),
    (64, 320, 1, jnp.float32, "product"),
    (128, 512, 3, jnp.bfloat16, "direct"),
    (129, 512, 3, jnp.float32, "direct"),
    (16, 1280, 5, jnp.float32, "direct"),
  ],
)
def test_choose_depends_on_places_and_channels_not_the_batch(
  side, channels, kernel, dtype, form
):
  for b in (1, 16):
    shape, of_kernel = (b, side, side, channels), (kernel, kernel, channels, channels)
    assert convolution.choose(shape, of_kernel, dtype) == form


def test_direct_only_counts_every_product():
  with convolution.direct_only():
    shape, kernel = (1, 16, 16, 1280), (3, 3, 1280, 1280)
    assert convolution.choose(shape, kernel, jnp.float32) == "direct"
  assert convolution.on_cpu()


def test_choose_follows_the_platform_of_the_mesh():
  class Device:
    platform = "tpu"

  class Mesh:
    devices = np.array([Device()])

  with placement.on_mesh(Mesh()):  # ty: ignore
    assert convolution.choose((1, 16, 16, 1280), (3, 3, 1280, 1280), jnp.float32) == (
      "direct"
    )
