"""The section `model` follows the platform that its network will run on."""

import jax.numpy as jnp
import pytest

from cxr_diffusion_jax.run import model_section


@pytest.mark.parametrize(
  ("platform", "dtype"),
  [("cpu", jnp.float32), ("gpu", jnp.bfloat16), ("tpu", jnp.bfloat16)],
)
def test_fields_choose_the_dtype_by_platform(platform, dtype):
  assert model_section.fields({"dtype": "auto"}, platform) == ({}, dtype)
  assert model_section.fields({"dtype": "float16"}, platform) == ({}, jnp.float16)
