"""Names are looked up in one way: unknown ones are refused with the nearest."""

import pytest

from cxr_diffusion_jax import errors, naming


def test_check_names_the_nearest():
  assert naming.check("sampler", "heun", ("euler", "heun")) == "heun"
  with pytest.raises(errors.InputError, match="did you mean heun"):
    naming.check("sampler", "huen", ("euler", "heun"))


def test_modules_are_found_and_loaded_by_name():
  names = naming.modules("cxr_diffusion_jax.conditioning", without=("base",))
  assert "findings" in names
  assert "base" not in names
  module = naming.load("path", "cxr_diffusion_jax.conditioning", "findings")
  assert module.__name__ == "cxr_diffusion_jax.conditioning.findings"
  with pytest.raises(errors.InputError, match="did you mean findings"):
    naming.load("path", "cxr_diffusion_jax.conditioning", "finding")
