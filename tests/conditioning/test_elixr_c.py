"""The ELIXR-C map becomes tokens in row-major order."""

import numpy as np
import pytest

from cxr_diffusion_jax.conditioning import elixr_c


@pytest.fixture
def batch():
  rng = np.random.default_rng(0)
  return {"elixrc": rng.normal(size=(2, 8, 8, 1376)).astype(np.float16)}


def test_conditioner_orders_tokens_by_row(batch):
  (stream,) = elixr_c.Conditioner()(batch)
  np.testing.assert_array_equal(stream.tokens[:, 9], batch["elixrc"][:, 1, 1])
  assert stream.tokens.dtype == np.float32
  assert stream.mask.all()


def test_conditioner_pools_to_the_mean_of_the_map(batch):
  (stream,) = elixr_c.Conditioner(pooled=True)(batch)
  mean = batch["elixrc"].astype(np.float32).mean(axis=(1, 2))
  np.testing.assert_allclose(stream.tokens[:, 0], mean, atol=1e-6)


@pytest.mark.parametrize("pooled", [False, True])
def test_conditioner_outputs_match_its_specification(batch, pooled):
  conditioner = elixr_c.Conditioner(pooled=pooled)
  for spec, stream in zip(conditioner.streams, conditioner(batch), strict=True):
    assert stream.tokens.shape == (2, spec.num_tokens, spec.width)
    assert stream.mask.shape == (2, spec.num_tokens)
