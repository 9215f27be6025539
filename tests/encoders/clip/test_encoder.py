"""CLIP's columns: zeros where there is no token, and shapes known from config.json."""

import dataclasses
import json
import os
import pathlib
import shutil

import huggingface_hub
import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base
from cxr_diffusion_jax.encoders import weights
from cxr_diffusion_jax.encoders.clip import files as clip_files
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import small as clip_small
from cxr_diffusion_jax.encoders.columns import clip as clip_columns

FOLDER = pathlib.Path(__file__).parent / "torch_clip"
PROMPTS = ["a", "", "rather a long prompt of many words", "left"]


@pytest.fixture(scope="module", params=[1, 2], ids="{} windows".format)
def encoder(request) -> clip_columns.ClipEncoder:
  return clip_columns.load(str(FOLDER), chunks=request.param, batch_size=3)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """A copy to change."""
  return pathlib.Path(shutil.copytree(FOLDER, tmp_path / "clip"))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
  generator = np.random.default_rng(0)
  shapes = [(32, 32), (50, 40), (20, 20), (36, 64)]
  return [generator.integers(0, 256, shape, np.uint8) for shape in shapes]


def test_columns_have_the_shapes_promised(encoder, images):
  result = encoder.encode_text(["clip_text", "clip_states"], PROMPTS)
  result |= encoder.encode_images(["clip_image", "clip_patches"], images)
  assert set(result) == set(encoder.shapes)
  for name, values in result.items():
    assert values.shape == (4, *encoder.shapes[name])
    assert values.dtype == np.float32


def test_encoder_text_tokens_are_zero_exactly_at_padding(encoder):
  result = encoder.encode_text(["clip_text"], PROMPTS)["clip_text"]
  tokens, mask, _ = clip_model.encode_text(
    encoder.model, PROMPTS, chunks=encoder.chunks
  )
  np.testing.assert_array_equal(result[~mask], 0.0)
  np.testing.assert_allclose(result[mask], tokens[mask], atol=1e-5)
  # As it is read back: from the column's float16.
  read = np.asarray(base.stream(result.astype(np.float16)).mask)
  np.testing.assert_array_equal(read, mask)
  assert read[:, 0].all()


def test_encoder_image_tokens_are_never_masked(encoder, images):
  result = encoder.encode_images(["clip_image", "clip_patches"], images)
  for values in result.values():
    halves = values.astype(np.float16)
    assert np.isfinite(halves).all()
    assert np.asarray(base.stream(halves).mask).all()


def test_columns_equal_the_outputs_of_the_model(encoder, images):
  result = encoder.encode_images(["clip_patches", "clip_image"], images)
  patches, embedding = clip_model.encode_images(encoder.model, images, penultimate=True)
  np.testing.assert_allclose(result["clip_patches"], patches, atol=1e-5)
  np.testing.assert_allclose(result["clip_image"][:, 0], embedding, atol=1e-5)


def test_encoder_is_permutation_equivariant(encoder, images):
  order = [2, 0, 3, 1]
  for method, name, inputs in (
    (encoder.encode_text, "clip_text", PROMPTS),
    (encoder.encode_images, "clip_patches", images),
  ):
    straight = method([name], inputs)[name]
    permuted = method([name], [inputs[i] for i in order])[name]
    np.testing.assert_allclose(permuted, straight[order], atol=1e-5)


def test_encoder_computes_only_requested_columns(encoder, images):
  assert set(encoder.encode_images(["clip_image"], images)) == {"clip_image"}
  assert encoder.encode_images([], images) == {}
  assert encoder.encode_text([], PROMPTS) == {}


def test_description_tells_the_weights_and_the_windows(encoder):
  assert encoder.description.startswith(f"CLIP {FOLDER}")
  assert clip_model.fingerprint(encoder.model) in encoder.description
  assert encoder.description.endswith(", 2 chunks") == (encoder.chunks == 2)
  assert not encoder.standin
  assert not encoder.whole_images


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_clip_encoder_reports_values_beyond_float16(value, images):
  model = clip_model.load(FOLDER)
  damaged = jax.tree.map(lambda leaf: leaf.copy(), model.params)
  norm = damaged["vision_model"]["pre_layrnorm"]
  norm["bias"] = norm["bias"] + value
  encoder = clip_columns.ClipEncoder(model=dataclasses.replace(model, params=damaged))
  with pytest.raises(errors.InputError, match=r"clip_patches of .* reaches"):
    encoder.encode_images(["clip_patches"], images)


def test_shapes_of_a_folder_are_those_of_its_model(encoder):
  chunks = encoder.chunks
  assert clip_columns.shapes(str(FOLDER), chunks) == {
    "clip_text": (16 * chunks, 16),
    "clip_states": (16 * chunks, 16),
    "clip_patches": (17, 16),
    "clip_image": (1, 8),
  }
  assert encoder.shapes["clip_text"] == (encoder.chunks * 16, 16)


def test_shapes_of_the_standin_are_those_of_its_model():
  small = clip_small.SmallClip()
  tokenizer = clip_small.train_tokenizer(["a chest X-ray"], small)
  model = clip_small.create(
    np.random.default_rng(0),
    sizes=small,
    tokenizer=tokenizer,
    pixel_mean=0.5,
    pixel_std=0.25,
  )
  encoder = clip_columns.ClipEncoder(model=model)
  assert encoder.standin
  assert encoder.shapes == clip_columns.shapes("standin")


def test_shapes_of_the_published_clip_need_no_file(monkeypatch):
  monkeypatch.setattr(clip_files, "find_config", None)
  assert clip_columns.shapes("openai/clip-vit-large-patch14") == {
    "clip_text": (77, 768),
    "clip_states": (77, 768),
    "clip_patches": (257, 1024),
    "clip_image": (1, 768),
  }


@pytest.mark.parametrize(
  "nested",
  [
    {},
    {"text_config": {"hidden_size": 768}, "vision_config": {"patch_size": 16}},
    {"text_config": {"hidden_size": 768}, "text_config_dict": {}},
    {"text_config_dict": {"hidden_size": 640}, "vision_config_dict": None},
    {"projection_dim": 768, "vision_config": {"image_size": 336, "patch_size": 14}},
  ],
  ids=str,
)
def test_shapes_use_the_defaults_of_transformers(nested, tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps({"model_type": "clip", **nested}), encoding="utf-8")
  config = clip_model.library().CLIPConfig.from_pretrained(tmp_path)
  text, vision = config.text_config, config.vision_config
  num_patches = 1 + (vision.image_size // vision.patch_size) ** 2
  assert clip_columns.shapes(str(tmp_path)) == {
    "clip_text": (text.max_position_embeddings, text.hidden_size),
    "clip_states": (text.max_position_embeddings, text.hidden_size),
    "clip_patches": (num_patches, vision.hidden_size),
    "clip_image": (1, config.projection_dim),
  }


def test_shapes_of_a_hub_id_fetch_only_its_configuration(monkeypatch):
  asked = []

  def fetch(name, file):
    asked.append((name, file))
    return str(FOLDER / file)

  monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
  monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
  assert clip_columns.shapes("someone/clip") == clip_columns.shapes(str(FOLDER))
  assert asked == [("someone/clip", "config.json")]
  cached = str(FOLDER / "config.json")
  monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: cached)
  assert clip_columns.shapes("someone/clip") == clip_columns.shapes(str(FOLDER))
  assert len(asked) == 1


def test_shapes_report_an_unreachable_hub(monkeypatch, tmp_path):
  def fail(name, file):
    raise ConnectionError("no network")

  monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
  monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
  with pytest.raises(errors.InputError, match="'someone/clip' is no folder and could"):
    clip_columns.shapes("someone/clip")
  with pytest.raises(errors.InputError, match="no CLIP in"):
    clip_columns.shapes(str(tmp_path))
  with pytest.raises(errors.InputError, match="'some one/clip' is no folder and could"):
    clip_columns.shapes("some one/clip")


def test_mark_changes_only_with_the_files(folder):
  def mark() -> str:
    return weights.mark(clip_files.resolve(str(folder)))

  before = mark()
  assert mark() == before
  (folder / "notes.md").write_text("mine", encoding="utf-8")
  assert mark() == before
  marks = {before}
  for file in ("model.safetensors", "config.json", "vocab.json", "merges.txt"):
    content = (folder / file).read_bytes()
    os.utime(folder / file)
    assert mark() in marks
    (folder / file).write_bytes(content[:-1] + b"x")
    marks.add(mark())
  (folder / "preprocessor_config.json").unlink()
  marks.add(mark())
  assert len(marks) == 6
