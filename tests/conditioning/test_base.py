"""Paths are found by name, and dropping a stream is masking it."""

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base


def test_load_opens_every_path_by_file_name():
  assert "elixr_c" in base.names()
  for name in base.names():
    assert base.load(name).__module__.endswith(f".{name}")


def test_load_lists_paths_for_an_unknown_name():
  with pytest.raises(errors.InputError, match=r"'elixir'.*one of .*elixr_c"):
    base.load("elixir")


def test_drop_context_masks_only_the_given_streams_and_examples():
  context = tuple(
    types.TokenStream(tokens=jnp.ones((2, n, 4)), mask=jnp.ones((2, n), bool))
    for n in (3, 1)
  )
  drop = jnp.array([[True, False], [False, True]])
  first, second = base.drop_context(context, drop)
  np.testing.assert_array_equal(first.mask, [[False] * 3, [True] * 3])
  np.testing.assert_array_equal(second.mask, [[True], [False]])
  assert not any(stream.mask.any() for stream in base.drop_all(context))
