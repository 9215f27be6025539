"""What diffusers answered, folders as it would write them, and small own networks."""

from collections.abc import Callable
import importlib.util
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from cxr_diffusion_jax.interop import diffusers
from cxr_diffusion_jax.models.denoisers.unet import UNet

FOLDER = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def script() -> Any:
  """The script that asked diffusers."""
  path = FOLDER / "make_diffusers_models.py"
  spec = importlib.util.spec_from_file_location("make_diffusers_models", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="session")
def records() -> dict[str, dict[str, Any]]:
  """What it answered, by model: configuration, shapes, numbers."""
  records = json.loads((FOLDER / "diffusers_models.json").read_text())
  # Our UNet has no classes: the tests add their embeddings to the time's.
  records["classes"]["config"]["num_class_embeds"] = None
  del records["classes"]["shapes"]["class_embedding.weight"]
  return records


@pytest.fixture(scope="session")
def arrays(script, records) -> Callable[[str], dict[str, np.ndarray]]:
  """The parameters of a model by PyTorch's names, in its axes."""
  parameter = script.formula().parameter
  return lambda name: {
    key: parameter(key, tuple(shape)) for key, shape in records[name]["shapes"].items()
  }


@pytest.fixture
def folder(tmp_path, records, arrays) -> Callable[..., pathlib.Path]:
  """Writes a model as diffusers does: `folder("sd2", config={...}, arrays={...})`.

  `config` changes options; an array of None is left out.
  """

  def write(
    name: str,
    *,
    config: dict[str, Any] | None = None,
    changes: dict[str, np.ndarray | None] | None = None,
  ) -> pathlib.Path:
    place = tmp_path / name
    place.mkdir()
    options = {**records[name]["config"], **(config or {})}
    (place / "config.json").write_text(json.dumps(options))
    given = {**arrays(name), **(changes or {})}
    given = {key: array for key, array in given.items() if array is not None}
    file = place / "diffusion_pytorch_model.safetensors"
    safetensors_numpy.save_file(given, file, metadata={"format": "pt"})
    return place

  return write


@pytest.fixture(scope="session")
def own() -> tuple[UNet, Any]:
  """A small UNet with random parameters."""
  unet = UNet(
    out_channels=4,
    block_channels=(8, 12),
    num_layers=1,
    attention=(True, False),
    num_heads=2,
    norm_groups=4,
    context_width=6,
  )
  rng = np.random.default_rng(0)
  shapes = diffusers.unet_shapes(unet, 4)
  return unet, jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), shapes)
