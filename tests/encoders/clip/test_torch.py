"""A larger CLIP that PyTorch draws and saves here and now, where PyTorch is installed.

`test_clip_model.py` compares with numbers that were committed; this compares with the
installed PyTorch, which runs in a process of its own.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cxr_diffusion_jax.encoders.clip import model as clip_model

MAKE = pathlib.Path(__file__).parent / "torch_clip" / "make.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Four layers of width 64 a side, 77 tokens, 64 pixels; and expected.npz."""
  if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed (development extra)")
  folder = tmp_path_factory.mktemp("clip")
  subprocess.run(
    [sys.executable, str(MAKE), str(folder)],
    # Not as `clip_model.library` leaves it.
    env={**os.environ, "USE_TORCH": "1"},
    check=True,
  )
  return folder


def test_torch_weights_give_the_outputs_of_pytorch(folder):
  model = clip_model.load(folder)
  with np.load(folder / "expected.npz") as arrays:
    expected = dict(arrays)
  prompts = list(expected["prompts"])
  cache = {}
  cache["text_tokens"], mask, cache["text_embedding"] = clip_model.encode_text(
    model, prompts
  )
  windows, _, _ = clip_model.encode_text(model, prompts, chunks=2)
  cache["window_tokens"] = windows[1].reshape(2, model.max_tokens, -1)
  images = expected["images"]
  cache["image_tokens"], cache["image_embedding"] = clip_model.encode_images(
    model, images
  )
  cache["image_patches"], _ = clip_model.encode_images(
    model, list(images[..., 0]), penultimate=True
  )
  assert mask.sum(axis=1).tolist() == [11, 77]
  for name, values in cache.items():
    error = np.abs(values - expected[name]).max()
    print(f"{expected['versions']}: {name} {values.shape} differs by {error:.1e}")
    assert error < 1e-4, name
