"""ELIXR's SavedModels are run on what Google's code gives them, batch by batch.

The models here have the published signatures and do fixed sums instead of networks:

  elixr-c-v2-pooled: decoded PNG as 16 bits, scaled to [0, 1], 8x8 means * ramp [1376]
  pax-elixr-b-text:  sums of the map's mean, of the ids and of the paddings
"""

import os
import pathlib
import shutil
import sys

from absl import logging
import huggingface_hub
import numpy as np
import pytest
import tensorflow as tf

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import images as images_lib
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.elixr import embed as elixr_embed
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.extras.phantom import tree as phantom_tree

IMAGES = tuple(kind for kind in elixr.SHAPES if "txt" not in kind)
TEXTS = ("txt_emb", "contrastive_txt_emb")
PROMPTS = ["Large effusion", "no effusion", "left effusion", "effusion", "large large"]


class ElixrC(tf.Module):
  """Maps of images; `scaled` by each image's own brightest value, or by 16 bits."""

  def __init__(self, scaled: bool = True):
    super().__init__()
    self.scaled = scaled
    self.ramp = tf.Variable(tf.linspace(0.5, 1.5, 1376))

  def one(self, serialized: tf.Tensor) -> tf.Tensor:
    text = tf.io.FixedLenFeature([], tf.string)
    parsed = tf.io.parse_single_example(
      serialized, {"image/encoded": text, "image/format": text}
    )
    with tf.control_dependencies(
      [tf.debugging.assert_equal(parsed["image/format"], "png")]
    ):
      image = tf.io.decode_png(parsed["image/encoded"], channels=1, dtype=tf.uint16)
    image = tf.cast(image, tf.float32)
    image /= tf.reduce_max(image) if self.scaled else 65535.0
    return tf.image.resize(image, (8, 8), method="area") * self.ramp

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "input_example")])
  def serve(self, input_example):
    result = tf.map_fn(self.one, input_example, fn_output_signature=tf.float32)
    return {"feature_maps_0": tf.ensure_shape(result, (None, 8, 8, 1376))}


class QFormer(tf.Module):
  """All outputs of the Q-Former, for `rows` at a time."""

  def __init__(self, rows: int | None = None, secretly_one: bool = False):
    super().__init__()
    self.secretly_one = secretly_one
    self.weight = tf.Variable(tf.linspace(-1.0, 1.0, 768))
    shapes = {
      "image_feature": tf.TensorSpec([rows, 8, 8, 1376], tf.float32, "image_feature"),
      "ids": tf.TensorSpec([rows, 1, 128], tf.int32, "ids"),
      "paddings": tf.TensorSpec([rows, 1, 128], tf.float32, "paddings"),
    }
    self.serve = tf.function(self.call, input_signature=list(shapes.values()))

  def call(self, image_feature, ids, paddings):
    ids = tf.cast(ids[:, 0], tf.float32)
    if self.secretly_one:
      with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(ids)[0], 1)]):
        ids = tf.identity(ids)
    padding = paddings[:, 0]
    seen = tf.reduce_mean(image_feature, (1, 2))[:, :32]
    read = tf.reduce_sum(ids, 1) / 1000 + tf.reduce_sum(padding, 1)
    words = ids / 1000 + 10 * padding + tf.reduce_sum(seen, 1)[:, None]
    queries = seen[:, :, None] * self.weight + read[:, None, None]
    return {
      "img_emb": queries,
      "all_contrastive_img_emb": queries[:, :, :128],
      "contrastive_img_emb": queries[:, 0, :128],
      "txt_emb": words[:, :, None] * self.weight,
      "contrastive_txt_emb": words,
    }


def save(module: tf.Module, path: pathlib.Path) -> None:
  tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """Both models and a vocabulary."""
  folder = tmp_path_factory.mktemp("elixr")
  save(ElixrC(), folder / "elixr-c-v2-pooled")
  save(QFormer(), folder / "pax-elixr-b-text")
  words = [f"[unused{i}]" for i in range(30522)]
  words[0], words[100:103] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]"]
  words[1000:1004] = ["large", "left", "effusion", "no"]
  (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
  return folder


@pytest.fixture(scope="module")
def model(folder) -> elixr_model.ElixrModel:
  # The vocabulary beside the models is taken by itself.
  return elixr_model.load(folder, batch_size=2)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
  """Five images of different sizes, the last one of 16 bits."""
  random = np.random.default_rng(0)
  sizes = [(16, 16), (24, 32), (40, 16), (32, 32)]
  result = [random.integers(0, 256, size).astype(np.uint8) for size in sizes]
  for image in result:
    image[0, :2] = 0, 255
  wide = random.integers(0, 65536, (16, 24)).astype(np.uint16)
  wide[0, :2] = 0, 65535
  return [*result, wide]


def expected_map(image: np.ndarray) -> np.ndarray:
  """The 8x8 means of an image in [0, 1], times the ramp."""
  height, width = image.shape
  blocks = image.reshape(8, height // 8, 8, width // 8).astype(np.float64)
  means = blocks.mean(axis=(1, 3)) / np.iinfo(image.dtype).max
  return means[..., None] * np.linspace(0.5, 1.5, 1376)


def test_model_is_an_encoder_of_all_kinds(model):
  encoder: encoder_lib.Encoder = model
  assert dict(encoder.shapes) == dict(elixr.SHAPES)
  assert not encoder.standin
  assert encoder.whole_images


def test_encode_images_sees_whole_images_without_text(model, images):
  result = model.encode_images(IMAGES, images)
  assert {kind: result[kind].shape for kind in result} == {
    kind: (5, *elixr.SHAPES[kind]) for kind in IMAGES
  }
  assert all(values.dtype == np.float32 for values in result.values())
  maps = np.stack([expected_map(image) for image in images])
  np.testing.assert_allclose(result["elixrc"], maps, atol=1e-5)
  # Neither ids nor paddings: what the stand-in adds for them is 0.
  seen = maps.mean(axis=(1, 2))[:, :32]
  queries = seen[..., None] * np.linspace(-1, 1, 768)
  np.testing.assert_allclose(result["img_emb"], queries, atol=1e-5)
  np.testing.assert_array_equal(
    result["all_contrastive_img_emb"], result["img_emb"][:, :, :128]
  )
  np.testing.assert_array_equal(
    result["contrastive_img_emb"], result["img_emb"][:, 0, :128]
  )


def test_encode_texts_reads_text_without_an_image(model):
  result = model.encode_text(TEXTS, PROMPTS)
  assert result["txt_emb"].shape == (5, 128, 768)
  words = result["contrastive_txt_emb"]
  np.testing.assert_allclose(words[0, :4], [0.101, 1.0, 1.002, 10], rtol=1e-6)
  np.testing.assert_allclose(words[3, :3], [0.101, 1.002, 10], rtol=1e-6)
  assert (result["txt_emb"][:, -1, 0] == -10).all()


def test_model_outputs_do_not_depend_on_the_batch(folder, model, images):
  at_once = elixr_model.load(folder, folder, batch_size=5)
  whole = at_once.encode_images(IMAGES, images)
  for kind, values in model.encode_images(IMAGES, images[::-1]).items():
    np.testing.assert_allclose(values[::-1], whole[kind], atol=1e-6)
  alone = model.encode_images(["contrastive_img_emb"], images[2:3])
  np.testing.assert_allclose(
    alone["contrastive_img_emb"][0], whole["contrastive_img_emb"][2], atol=1e-6
  )
  texts = at_once.encode_text(TEXTS, PROMPTS)
  for kind, values in model.encode_text(TEXTS, PROMPTS[::-1]).items():
    np.testing.assert_allclose(values[::-1], texts[kind], atol=1e-6)


def test_encode_images_gives_the_model_stretched_pixels(tmp_path):
  random = np.random.default_rng(1)
  image = random.integers(20, 200, (32, 32)).astype(np.uint8)
  low, high = int(image.min()), int(image.max())
  save(ElixrC(scaled=False), tmp_path / "elixr-c-v2-pooled")
  model = elixr_model.load(tmp_path)
  values = model.encode_images(["elixrc"], [image])["elixrc"][0, ..., 0]
  means = (image.astype(float).reshape(8, 4, 8, 4).mean((1, 3)) - low) / 2
  stretched = means * 255 / (high - low)
  np.testing.assert_allclose(values, stretched / 65535, atol=0.5 / 65535)


def test_load_opens_only_needed_models(folder, tmp_path, images):
  shutil.copytree(folder / "elixr-c-v2-pooled", tmp_path / "c" / "elixr-c-v2-pooled")
  shutil.copytree(folder / "pax-elixr-b-text", tmp_path / "b" / "pax-elixr-b-text")
  maps = elixr_model.load(tmp_path / "c", "/no/vocabulary")
  assert maps.tokenizer == "/no/vocabulary"
  assert maps.encode_images(["elixrc"], images[:1])["elixrc"].shape == (1, 8, 8, 1376)
  with pytest.raises(errors.InputError, match=r"no pax-elixr-b-text.*HAI-DEF terms"):
    maps.encode_images(["img_emb"], images[:1])
  texts = elixr_model.load(tmp_path / "b", folder)
  assert texts.encode_text(["txt_emb"], ["no"])["txt_emb"].shape == (1, 128, 768)
  with pytest.raises(errors.InputError, match="no elixr-c-v2-pooled"):
    texts.encode_images(["elixrc"], images[:1])


def test_encode_texts_cuts_long_texts_and_warns(model, monkeypatch):
  messages = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *more: messages.append(text % more)
  )
  model.encode_text(["txt_emb"], ["no", "no " * 126 + "Large effusion"])
  assert messages == [
    "1 of 2 texts are longer than ELIXR's 128 tokens; cut off the first:"
    " 'large effusion'"
  ]


def test_load_runs_a_program_of_one_row_row_by_row(
  folder, model, tmp_path, monkeypatch
):
  messages = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *more: messages.append(text % more)
  )
  wanted = model.encode_text(TEXTS, PROMPTS)
  for name, module in {"said": QFormer(rows=1), "not": QFormer(None, True)}.items():
    save(module, tmp_path / name / "pax-elixr-b-text")
    one = elixr_model.load(tmp_path / name, folder, batch_size=3)
    result = one.encode_text(TEXTS, PROMPTS)
    for kind in TEXTS:
      np.testing.assert_allclose(result[kind], wanted[kind], atol=1e-6)
  assert messages == ["pax-elixr-b-text is given one row at a time: it refuses more"]


def test_description_depends_on_content_and_not_time(folder, tmp_path):
  messages = elixr_model.load(folder).description
  copy = shutil.copytree(folder, tmp_path / "copy")
  os.utime(copy / "pax-elixr-b-text" / "saved_model.pb", (0, 0))
  again = elixr_model.load(copy).description
  assert again == messages
  assert "16-bit PNG" in messages
  variables = copy / "elixr-c-v2-pooled/variables/variables.data-00000-of-00001"
  variables.write_bytes(variables.read_bytes() + b"x")
  other = elixr_model.load(copy).description
  assert other.split("pax")[0] != messages.split("pax")[0]
  assert other.split("pax")[1] == messages.split("pax")[1]


def test_load_downloads_only_two_models(folder, monkeypatch):
  asked = []

  def download(name, **options):
    asked.append((name, options))
    return str(folder)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert elixr_model.load().folder == folder
  patterns = ["elixr-c-v2-pooled/*", "pax-elixr-b-text/*"]
  assert asked == [("google/cxr-foundation", {"allow_patterns": patterns})]

  def refuse(name, **options):
    raise OSError("403: gated")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
  with pytest.raises(errors.InputError, match=r"403: gated.*HAI-DEF.*huggingface-cli"):
    elixr_model.load()


def test_load_refuses_folders_without_models(folder, tmp_path):
  with pytest.raises(errors.InputError, match=r"no ELIXR in '\./none'"):
    elixr_model.load("./none")
  with pytest.raises(errors.InputError, match="no elixr-c-v2-pooled or pax-elixr"):
    elixr_model.load(tmp_path)
  with pytest.raises(errors.InputError, match="the folder above"):
    elixr_model.load(folder / "pax-elixr-b-text")


def test_load_refuses_other_inputs_or_outputs(folder, tmp_path, images):
  class Other(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "picture")])
    def serve(self, picture):
      return {"feature_maps_0": tf.zeros((1, 8, 8, 1376))}

  class Wrong(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "input_example")])
    def serve(self, input_example):
      return {"feature_maps_0": tf.zeros((1, 4, 4, 1376))}

  class Named(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "input_example")])
    def serve(self, input_example):
      return {"maps": tf.zeros((1, 8, 8, 1376))}

  for module, messages in (
    (Other(), r"inputs picture; expected input_example; fix: use elixr-c"),
    (Wrong(), r"feature_maps_0 \[1, 4, 4, 1376\]; expected n, 8, 8, 1376"),
    (Named(), r"outputs maps; expected feature_maps_0"),
  ):
    name = type(module).__name__
    save(module, tmp_path / name / "elixr-c-v2-pooled")
    with pytest.raises(errors.InputError, match=messages):
      elixr_model.load(tmp_path / name).encode_images(["elixrc"], images[:1])
  tf.saved_model.save(tf.Module(), str(tmp_path / "bare" / "elixr-c-v2-pooled"))
  with pytest.raises(errors.InputError, match="signatures none; expected serving_def"):
    elixr_model.load(tmp_path / "bare").encode_images(["elixrc"], images[:1])


def test_load_reports_missing_operations_and_damage(
  folder, tmp_path, images, monkeypatch
):
  # As if tensorflow-text were not installed, wherever this test runs.
  monkeypatch.setitem(sys.modules, "tensorflow_text", None)
  path = shutil.copytree(folder, tmp_path / "copy") / "elixr-c-v2-pooled/saved_model.pb"
  program = path.read_bytes()
  assert b"DecodePng" in program
  # A name of the same length: lengths stand before names in the file.
  path.write_bytes(program.replace(b"DecodePng", b"DecodeTxt"))
  with pytest.raises(errors.InputError, match="fix: pip install 'tensorflow-text=="):
    elixr_model.load(tmp_path / "copy").encode_images(["elixrc"], images[:1])
  path.write_bytes(b"not a program")
  with pytest.raises(errors.InputError, match="cannot be loaded"):
    elixr_model.load(tmp_path / "copy").encode_images(["elixrc"], images[:1])


@pytest.fixture
def text_ops(tmp_path, monkeypatch) -> pathlib.Path:
  """A module that stands where tensorflow-text would."""
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, "tensorflow_text", raising=False)
  yield tmp_path / "tensorflow_text.py"
  sys.modules.pop("tensorflow_text", None)


def test_load_imports_tensorflow_text_first(folder, images, monkeypatch, text_ops):
  text_ops.write_text('"""Registers nothing."""\n')
  load, seen = tf.saved_model.load, []

  def watched(path):
    seen.append("tensorflow_text" in sys.modules)
    return load(path)

  monkeypatch.setattr(tf.saved_model, "load", watched)
  elixr_model.load(folder).encode_images(["elixrc"], images[:1])
  assert seen == [True]


def test_load_reports_an_incompatible_tensorflow_text(folder, images, text_ops):
  text_ops.write_text("raise ImportError('undefined symbol')\n")
  with pytest.raises(errors.InputError, match=r"does not work with.*undefined symbol"):
    elixr_model.load(folder).encode_images(["elixrc"], images[:1])


def test_embed_of_a_tree_is_read_back_equal(model, tmp_path):
  root = phantom_tree.write_tree(tmp_path / "tree", num_images=6, size=32)
  stems = sorted(path.stem for path in root.glob("original/*/images/*.png"))
  prompts = {stem: PROMPTS[i % 5] for i, stem in enumerate(stems)}
  kinds = tuple(elixr.SHAPES)
  assert elixr_embed.embed(root, kinds, model, prompts=prompts, batch_size=4) == kinds
  pixels = [
    images_lib.read_grey(next(root.glob(f"original/*/images/{stem}.png")))
    for stem in stems
  ]
  wanted = model.encode_images(IMAGES, pixels)
  wanted |= model.encode_text(TEXTS, [prompts[stem] for stem in stems])
  for kind in kinds:
    actual = elixr.find_elixr(root, kind)
    assert (actual.form, actual.standin) == ("A", False)
    assert actual.encoder == model.description
    read, values = (
      np.concatenate(parts) for parts in zip(*actual.batches(), strict=True)
    )
    assert read.tolist() == stems
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, wanted[kind], rtol=0, atol=1e-6)
