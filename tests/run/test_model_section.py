"""The section `model` follows the platform that its network will run on."""

import jax.numpy as jnp
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import model_section


@pytest.mark.parametrize(
  ("platform", "dtype"),
  [("cpu", jnp.float32), ("gpu", jnp.bfloat16), ("tpu", jnp.bfloat16)],
)
def test_fields_choose_the_dtype_by_platform(platform, dtype):
  assert model_section.fields({"dtype": "auto"}, platform) == ({}, dtype)
  assert model_section.fields({"dtype": "float16"}, platform) == ({}, jnp.float16)


@pytest.mark.parametrize(
  ("value", "platform", "scanned"),
  [
    ("auto", "cpu", False),
    ("auto", "tpu", True),
    (None, "gpu", True),
    (False, "tpu", False),
    ("True", "cpu", True),
  ],
)
def test_build_scans_blocks_by_platform_or_as_said(value, platform, scanned):
  section = {"name": "dit", "depth": 2}
  if value is not None:
    section["scan_blocks"] = value
  network, _ = model_section.build(section, (4, 4, 1), (), platform=platform)
  assert getattr(network, "scan_blocks", None) is scanned


def test_build_refuses_other_choices_of_scans():
  section = {"name": "unet", "scan_blocks": "yes"}
  with pytest.raises(errors.InputError, match=r"scan_blocks='yes'; expected auto"):
    model_section.build(section, (4, 4, 1), (), platform="cpu")
