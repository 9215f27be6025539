"""Random parameters of any module: compiling its own `init` takes seconds."""

from collections.abc import Callable
import types
from typing import Any

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def draw() -> Callable[..., Any]:
  """Draws variables of a module: `draw(module, *inputs, scale=0.3)`."""

  def make(module, *inputs, scale: float = 0.3, **options):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
      lambda key, *inputs: module.init(key, *inputs, **options),
      jax.random.key(0),
      *inputs,
    )
    return jax.tree.map(
      lambda leaf: scale * rng.standard_normal(leaf.shape).astype(np.float32), shapes
    )

  return make


@pytest.fixture(scope="session")
def pretend_mesh():
  """(platform) -> what `placement.on_mesh` reads of a mesh of one such device."""

  def make(platform):
    device = types.SimpleNamespace(platform=platform)
    return types.SimpleNamespace(devices=np.array([device]), size=1, shape={"data": 1})

  return make
