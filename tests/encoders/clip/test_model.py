"""A CLIP that PyTorch saved gives PyTorch's numbers here, without PyTorch."""

import dataclasses
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.clip import model as clip_model

TORCH_CLIP = pathlib.Path(__file__).parent / "torch_clip"


@pytest.fixture(scope="module")
def model() -> clip_model.ClipModel:
  return clip_model.load(TORCH_CLIP)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
  with np.load(TORCH_CLIP / "expected.npz") as arrays:
    return dict(arrays)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """A copy to change."""
  return pathlib.Path(shutil.copytree(TORCH_CLIP, tmp_path / "clip"))


def test_encode_text_equals_pytorch(model, expected):
  tokens, mask, embedding = clip_model.encode_text(model, list(expected["prompts"]))
  np.testing.assert_array_equal(mask, expected["text_mask"])
  np.testing.assert_allclose(tokens, expected["text_tokens"], atol=1e-4)
  np.testing.assert_allclose(embedding, expected["text_embedding"], atol=1e-4)


def test_encode_images_equals_pytorch_with_its_own_resize_and_crop(model, expected):
  tokens, embedding = clip_model.encode_images(model, expected["images"])
  assert tokens.shape == (2, 1 + model.grid**2, 16)
  np.testing.assert_allclose(tokens, expected["image_tokens"], atol=1e-4)
  np.testing.assert_allclose(embedding, expected["image_embedding"], atol=1e-4)
  assert "torch" not in sys.modules


def test_encode_images_penultimate_states_equal_pytorch(model, expected):
  images = list(expected["images"][..., 0])
  patches, embedding = clip_model.encode_images(model, images, penultimate=True)
  np.testing.assert_allclose(patches, expected["image_patches"], atol=1e-4)
  np.testing.assert_allclose(embedding, expected["image_embedding"], atol=1e-4)
  assert np.abs(patches - expected["image_tokens"]).max() > 0.1


def test_encode_text_and_images_agree_as_in_pytorch(model, expected):
  _, _, text = clip_model.encode_text(model, list(expected["prompts"]))
  _, image = clip_model.encode_images(model, expected["images"])
  text, image = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image))
  similarity = np.exp(model.params["logit_scale"]) * image @ text.T
  np.testing.assert_allclose(similarity, expected["similarity"], atol=1e-4)


def test_encode_text_windows_of_a_long_prompt_equal_pytorch(model, expected):
  prompts = list(expected["prompts"])
  tokens, mask, embedding = clip_model.encode_text(model, prompts, chunks=2)
  assert tokens.shape == (2, 32, 16)
  assert mask.sum(axis=1).tolist() == [11, 32]
  windows = tokens[1].reshape(2, 16, 16)
  np.testing.assert_allclose(windows, expected["window_tokens"], atol=1e-4)
  np.testing.assert_allclose(embedding, expected["text_embedding"], atol=1e-4)
  assert not tokens[0, 16:].any()


def test_encode_images_projects_the_class_token_to_the_embedding(model, expected):
  tokens, embedding = clip_model.encode_images(model, expected["images"])
  projected = model.project_fn(model.params, tokens[:, 0])
  np.testing.assert_allclose(projected, embedding, atol=1e-5)


def test_encode_images_does_not_depend_on_the_batch(model):
  images = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 1), np.uint8)
  together, _ = clip_model.encode_images(model, images)
  in_pairs, _ = clip_model.encode_images(model, images, batch_size=2)
  alone, _ = clip_model.encode_images(model, images[3:4])
  np.testing.assert_allclose(in_pairs, together, atol=1e-5)
  np.testing.assert_allclose(alone[0], together[3], atol=1e-5)


def test_encode_text_cuts_and_ends_a_long_prompt(model):
  tokens, mask, _ = clip_model.encode_text(model, ["word " * 50, "a"])
  assert tokens.shape == (2, 16, 16)
  assert mask.sum(axis=1).tolist() == [16, 3]


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_encode_text_embeds_the_first_window_of_each_prompt(model, chunks):
  prompts = ["word " * 9, "a", "word " * 4, "left right " * 3, ""]
  tokens, mask, embedding = clip_model.encode_text(
    model, prompts, chunks=chunks, batch_size=2
  )
  assert tokens.shape == (5, 16 * chunks, 16)
  assert mask.shape == (5, 16 * chunks)
  first, first_mask, first_embedding = clip_model.encode_text(model, prompts)
  np.testing.assert_allclose(tokens[:, :16], first, atol=1e-5)
  np.testing.assert_array_equal(mask[:, :16], first_mask)
  np.testing.assert_allclose(embedding, first_embedding, atol=1e-5)


def test_encode_text_takes_parameters_as_an_argument(model):
  ids = np.zeros((1, 16), np.int32)
  constants = jax.make_jaxpr(model.text_fn)(model.params, ids).consts
  assert sum(np.size(constant) for constant in constants) < 1000
  doubled = jax.tree.map(lambda leaf: 2 * leaf, model.params)
  changed = dataclasses.replace(model, params=doubled)
  assert clip_model.fingerprint(changed) != clip_model.fingerprint(model)
  before, _, _ = clip_model.encode_text(model, ["a"])
  after, _, _ = clip_model.encode_text(changed, ["a"])
  assert np.abs(after - before).max() > 0.1


def test_describe_names_a_published_model(model):
  assert not model.standin
  assert clip_model.describe(model).startswith(f"CLIP {TORCH_CLIP}")


def test_encode_text_and_images_refuse_empty_input(model):
  with pytest.raises(ValueError, match="nothing to encode"):
    clip_model.encode_text(model, [])
  with pytest.raises(ValueError, match="nothing to encode"):
    clip_model.encode_images(model, np.zeros((0, 32, 32, 1), np.uint8))


def test_load_reports_a_tokenizer_of_another_vocabulary(folder):
  path = folder / "vocab.json"
  words = json.loads(path.read_text(encoding="utf-8"))
  words["chest</w>"] = len(words)
  path.write_text(json.dumps(words), encoding="utf-8")
  with pytest.raises(errors.InputError, match=r"has 515 ids.*at most 514"):
    clip_model.load(folder)


@pytest.mark.parametrize(
  ("file", "old", "new"),
  [
    ("config.json", '"max_position_embeddings": 16', '"max_position_embeddings": -1'),
    ("config.json", '"vocab_size": 514', '"vocab_size": []'),
    ("preprocessor_config.json", '"shortest_edge"', '"shortes"'),
    ("preprocessor_config.json", '"image_std": [', '"image_std": [{}, '),
    ("preprocessor_config.json", '"image_mean": [', '"image_mean": ["x", '),
  ],
)
def test_load_refuses_settings_of_no_model(folder, file, old, new):
  path = folder / file
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))
  with pytest.raises(errors.InputError, match="describe no model") as caught:
    clip_model.load(folder)
  assert "\n" not in str(caught.value)
