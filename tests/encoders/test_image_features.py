"""Frozen encoders as functions of pixels: found, loaded, differentiable, comparable."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import image_features
from cxr_diffusion_jax.encoders.clip import model as clip_model


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
  """A folder of a tiny DINOv2, its weights named and laid out as PyTorch does."""
  transformers = clip_model.library()
  config = transformers.Dinov2Config(
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    mlp_ratio=1,
    image_size=8,
    patch_size=4,
  )
  module = transformers.FlaxDinov2Model.module_class(config=config)
  shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  rng = np.random.default_rng(0)
  weights = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"]):
    names = [entry.key for entry in path]
    value = 0.3 * rng.standard_normal(leaf.shape, np.float32)
    if names[-1] == "kernel":
      value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    names[-1] = {"kernel": "weight", "scale": "weight"}.get(names[-1], names[-1])
    weights[".".join(names)] = np.ascontiguousarray(value)
  folder = tmp_path_factory.mktemp("dino")
  config.save_pretrained(folder)
  pixels = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
  (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
  safetensors.numpy.save_file(weights, folder / "model.safetensors")
  return folder


def test_load_gives_a_dino_for_any_size_with_gradients(dino):
  encoder = image_features.load(str(dino))
  assert encoder.layer == "class token after the norm"
  rng = np.random.default_rng(1)
  image, other = rng.uniform(-1, 1, (2, 2, 16, 12, 1)).astype(np.float32)

  @jax.jit
  def seen(image):
    def unlike(image):
      states, embedding = encoder.apply_fn(encoder.params, image)
      wanted, _ = encoder.apply_fn(encoder.params, other)
      return image_features.distance(states, wanted).sum(), (states, embedding)

    return jax.value_and_grad(unlike, has_aux=True)(image)

  (distance, (states, embedding)), gradient = seen(image)
  # Two layers, a class token and 2x2 patches; the embedding of patches is no layer.
  assert [state.shape for state in states] == [(2, 5, 8)] * 2
  assert embedding.shape == (2, 8)
  assert 0 < distance < 8
  assert np.abs(gradient).max() > 0
  assert np.isfinite(gradient).all()
  assert float(seen(other)[0][0]) == pytest.approx(0, abs=1e-6)


def test_distance_compares_directions():
  one = (jnp.array([[[2.0, 0.0], [0.0, 1.0]]]),)
  for other, expected in (
    ([[3.0, 0.0], [0.0, 9.0]], 0.0),
    ([[0.0, 1.0], [0.0, 1.0]], 1.0),
    ([[-1.0, 0.0], [0.0, -1.0]], 4.0),
  ):
    distance = image_features.distance(one, (jnp.array([other]),))
    assert float(distance[0]) == pytest.approx(expected, abs=1e-5)


def test_load_refuses_a_missing_or_another_model(dino, tmp_path, monkeypatch):
  assert image_features.find(str(dino)) == dino
  monkeypatch.setattr(image_features, "KNOWN", ("nobody/nothing",))
  assert image_features.available() is None
  monkeypatch.setattr(image_features, "KNOWN", ("nobody/nothing", str(dino)))
  assert image_features.available() == str(dino)
  with pytest.raises(errors.InputError, match=r"config\.json is absent"):
    image_features.load(str(tmp_path))
  (tmp_path / "config.json").write_text('{"model_type": "bert"}')
  (tmp_path / "preprocessor_config.json").write_text("{}")
  with pytest.raises(errors.InputError, match="'bert'; expected 'clip' or 'dinov2'"):
    image_features.load(str(tmp_path))
  (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
  with pytest.raises(errors.InputError, match="describe no model: 'image_mean'"):
    image_features.load(str(tmp_path))
