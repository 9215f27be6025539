"""A CLIP that PyTorch saved gives PyTorch's numbers here, without PyTorch."""

import dataclasses
import json
import pathlib
import shutil
import sys

import huggingface_hub
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import clip_files, clip_model, clip_pixels

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


def test_text_equals_pytorch(model, expected):
  tokens, mask, embedding = clip_model.encode_text(model, list(expected["prompts"]))
  np.testing.assert_array_equal(mask, expected["text_mask"])
  np.testing.assert_allclose(tokens, expected["text_tokens"], atol=1e-4)
  np.testing.assert_allclose(embedding, expected["text_embedding"], atol=1e-4)


def test_images_equal_pytorch_with_its_own_resize_and_crop(model, expected):
  tokens, embedding = clip_model.encode_images(model, expected["images"])
  assert tokens.shape == (2, 1 + model.grid**2, 16)
  np.testing.assert_allclose(tokens, expected["image_tokens"], atol=1e-4)
  np.testing.assert_allclose(embedding, expected["image_embedding"], atol=1e-4)
  assert "torch" not in sys.modules


def test_class_token_is_where_project_puts_it(model, expected):
  tokens, embedding = clip_model.encode_images(model, expected["images"])
  projected = model.project_fn(model.params, tokens[:, 0])
  np.testing.assert_allclose(projected, embedding, atol=1e-5)


def test_result_does_not_depend_on_the_batch(model):
  images = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 1), np.uint8)
  together, _ = clip_model.encode_images(model, images)
  in_pairs, _ = clip_model.encode_images(model, images, batch_size=2)
  alone, _ = clip_model.encode_images(model, images[3:4])
  np.testing.assert_allclose(in_pairs, together, atol=1e-5)
  np.testing.assert_allclose(alone[0], together[3], atol=1e-5)


def test_long_prompt_is_cut_and_still_ended(model):
  tokens, mask, _ = clip_model.encode_text(model, ["word " * 50, "a"])
  assert tokens.shape == (2, 16, 16)
  assert mask.sum(axis=1).tolist() == [16, 3]


def test_parameters_are_an_argument(model):
  ids = np.zeros((1, 16), np.int32)
  constants = jax.make_jaxpr(model.text_fn)(model.params, ids).consts
  assert sum(np.size(constant) for constant in constants) < 1000
  doubled = jax.tree.map(lambda leaf: 2 * leaf, model.params)
  changed = dataclasses.replace(model, params=doubled)
  assert clip_model.fingerprint(changed) != clip_model.fingerprint(model)
  before, _, _ = clip_model.encode_text(model, ["a"])
  after, _, _ = clip_model.encode_text(changed, ["a"])
  assert np.abs(after - before).max() > 0.1


def test_published_model_is_described_by_its_name(model):
  assert not model.standin
  assert clip_model.describe(model).startswith(f"CLIP {TORCH_CLIP}")


def test_nothing_to_encode_is_refused(model):
  with pytest.raises(ValueError, match="nothing to encode"):
    clip_model.encode_text(model, [])
  with pytest.raises(ValueError, match="nothing to encode"):
    clip_model.encode_images(model, np.zeros((0, 32, 32, 1), np.uint8))


def test_shards_in_half_precision_with_old_buffers_load(folder, model):
  arrays = safetensors_numpy.load_file(folder / "model.safetensors")
  arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
  arrays["text_model.embeddings.position_ids"] = np.arange(16)[None]
  (folder / "model.safetensors").unlink()
  names = sorted(arrays)
  shards = {"model-1.safetensors": names[:20], "model-2.safetensors": names[20:]}
  for file, keys in shards.items():
    safetensors_numpy.save_file({key: arrays[key] for key in keys}, folder / file)
  weight_map = {key: file for file, keys in shards.items() for key in keys}
  index = json.dumps({"weight_map": weight_map})
  (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
  loaded = clip_model.load(folder)
  for leaf, whole in zip(
    jax.tree.leaves(loaded.params), jax.tree.leaves(model.params), strict=True
  ):
    assert leaf.dtype == np.float32
    np.testing.assert_allclose(leaf, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
  ("change", "told"),
  [
    (lambda a: a.pop("logit_scale"), "no weight for logit_scale"),
    (
      lambda a: a.update({"visual_projection.weight": np.zeros((3, 16), "f4")}),
      "weight of shape (16, 3) for visual_projection.kernel",
    ),
    (
      lambda a: a.update({"text_model.extra.weight": np.zeros(2, "f4")}),
      "text_model.extra.weight first",
    ),
  ],
)
def test_weights_that_do_not_fit_are_told(folder, change, told):
  arrays = safetensors_numpy.load_file(folder / "model.safetensors")
  change(arrays)
  safetensors_numpy.save_file(arrays, folder / "model.safetensors")
  with pytest.raises(errors.InputError) as caught:
    clip_model.load(folder)
  assert told in str(caught.value)


def test_cut_off_weights_are_told(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:50_000])
  with pytest.raises(
    errors.InputError, match=r"model\.safetensors is absent or cannot"
  ):
    clip_model.load(folder)


def test_cut_off_msgpack_is_told(folder):
  (folder / "model.safetensors").unlink()
  (folder / "flax_model.msgpack").write_bytes(b"\x81\xa1a")
  with pytest.raises(errors.InputError, match=r"flax_model\.msgpack is absent or"):
    clip_model.load(folder)


def test_folder_without_weights_or_config_is_told(folder):
  (folder / "model.safetensors").unlink()
  with pytest.raises(errors.InputError, match="no weights in"):
    clip_model.load(folder)
  (folder / "config.json").unlink()
  with pytest.raises(errors.InputError, match="no CLIP in"):
    clip_model.load(folder)


def test_hub_is_asked_for_one_form_of_weights(monkeypatch):
  asked = {}

  def download(name, allow_patterns):
    asked[name] = allow_patterns
    return str(TORCH_CLIP)

  files = ["config.json", "flax_model.msgpack", "model.safetensors"]
  monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: files)
  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert clip_files.resolve("someone/clip") == TORCH_CLIP
  assert asked == {"someone/clip": ["*.json", "merges.txt", "model.safetensors"]}


def test_hub_out_of_reach_is_told_unless_cached(monkeypatch):
  def fail(name):
    raise ConnectionError("no network")

  monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
  cache = {"someone/clip": str(TORCH_CLIP / "config.json")}
  monkeypatch.setattr(
    huggingface_hub, "try_to_load_from_cache", lambda name, file: cache.get(name)
  )
  assert clip_files.resolve("someone/clip") == TORCH_CLIP
  with pytest.raises(errors.InputError, match="'someone/else' is no folder and could"):
    clip_files.resolve("someone/else")


def test_processor_of_another_model_is_told(folder):
  path = folder / "preprocessor_config.json"
  settings = json.loads(path.read_text(encoding="utf-8"))
  settings["crop_size"] = {"height": 24, "width": 24}
  path.write_text(json.dumps(settings), encoding="utf-8")
  with pytest.raises(errors.InputError, match="makes images of 24 pixels"):
    clip_model.load(folder)


def test_fit_takes_grey_bytes_only_and_leaves_the_right_size_alone(model):
  images = np.random.default_rng(2).integers(0, 256, (2, 36, 36, 1), np.uint8)
  fitted = clip_pixels.fit(images, model.pixels)
  np.testing.assert_array_equal(fitted, images[:, 2:34, 2:34])
  with pytest.raises(ValueError, match="expected uint8"):
    clip_pixels.fit(images / 255.0, model.pixels)
