"""Trees of X-rays without embeddings, and the encoders that can make some for them.

tree, records, stand-in CLIP: made once --copied--> `settings`, `with_standin`: a test's
own, so that it may change what it likes
"""

from collections.abc import Callable, Iterable
import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import phantom
from cxr_diffusion_jax.encoders import fitting
from cxr_diffusion_jax.encoders.clip import small as clip_small
from cxr_diffusion_jax.encoders.columns import clip as clip_columns
from cxr_diffusion_jax.encoders.standin import training as standin
from cxr_diffusion_jax.extras.phantom import tree as phantom_tree

# Few layers on four patches: a second to compile.
TINY_CLIP = clip_small.SmallClip(
  image_size=16, patch_size=8, width=16, image_layers=2, text_layers=1, num_heads=2,
  embedding=8, num_merges=300, max_tokens=48,
)  # fmt: skip


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> DataSettings:
  """A tree as a user has it, without a sign of phantoms, and its records."""
  folder = tmp_path_factory.mktemp("plain")
  root = phantom_tree.write_tree(folder / "tree", num_images=24, size=32)
  (root / phantom.SETTINGS_FILE).unlink()
  settings = DataSettings(
    root=str(root), image_size=32, records_dir=str(folder / "records")
  )
  records_lib.prepare_records(settings)
  return settings


@pytest.fixture
def settings(prepared, tmp_path) -> DataSettings:
  """Of a tree without embeddings; a copy, records and all."""
  copy = dataclasses.replace(
    prepared, root=str(tmp_path / "tree"), records_dir=str(tmp_path / "records")
  )
  shutil.copytree(prepared.root, copy.root)
  shutil.copytree(prepared.tree_folder, copy.tree_folder)
  return copy


@pytest.fixture
def open_records() -> Callable[[DataSettings], records_lib.Records]:
  """Opens the records of settings, or makes them."""
  return lambda settings: records_lib.prepare_records(settings)


def _unchanged(key, params, opt_state, batch):
  return params, opt_state, {"loss": 1.0}


@pytest.fixture
def quick_training(monkeypatch) -> None:
  """Stand-ins keep the parameters that they start with: nothing is compiled."""
  monkeypatch.setattr(fitting, "make_step_fn", lambda *_: _unchanged)


@pytest.fixture(scope="session")
def standin_clip(prepared, tmp_path_factory) -> pathlib.Path:
  """The stand-in CLIP of `prepared`, with the parameters that training starts with."""
  trained = dataclasses.replace(
    prepared, records_dir=str(tmp_path_factory.mktemp("standin")), standin_steps=3
  )
  records = records_lib.prepare_records(trained)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fitting, "make_step_fn", lambda *_: _unchanged)
    standin.train_clip(trained, records)
  return trained.standin_clip


@pytest.fixture
def with_standin(settings, standin_clip) -> DataSettings:
  """`settings` that make stand-ins of all that lacks, from a CLIP that is there."""
  shutil.copytree(standin_clip, settings.standin_clip)
  return dataclasses.replace(settings, standin=True, standin_steps=3)


@pytest.fixture
def make_clip(tmp_path) -> Callable[..., pathlib.Path]:
  """Saves a CLIP of random parameters: `make_clip("name", prompts, seed=1)`."""

  def make(name: str, prompts: Iterable[str], *, seed: int = 0) -> pathlib.Path:
    model = clip_small.create(
      np.random.default_rng(seed),
      sizes=TINY_CLIP,
      tokenizer=clip_small.train_tokenizer(list(prompts), TINY_CLIP),
      pixel_mean=0.5,
      pixel_std=0.25,
    )
    clip_small.save(model, tmp_path / name)
    return tmp_path / name

  return make


@pytest.fixture
def one_by_one(monkeypatch) -> None:
  """CLIP is compiled for one row, in place of a shape for each split's rows."""
  load = clip_columns.load
  monkeypatch.setattr(
    clip_columns,
    "load",
    lambda *given, **options: load(*given, **{**options, "batch_size": 1}),
  )


@pytest.fixture(scope="session")
def elixr_models(tmp_path_factory) -> pathlib.Path:
  """SavedModels with the published signatures, whose outputs are means and ramps."""
  import tensorflow as tf

  class ElixrC(tf.Module):
    """Maps of 8x8 means of an image, scaled by its brightest value."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "input_example")])
    def serve(self, input_example):
      result = tf.map_fn(self.one, input_example, fn_output_signature=tf.float32)
      return {"feature_maps_0": tf.ensure_shape(result, (None, 8, 8, 1376))}

    def one(self, serialized):
      features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
      parsed = tf.io.parse_single_example(serialized, features)
      image = tf.io.decode_png(parsed["image/encoded"], channels=1, dtype=tf.uint16)
      image = tf.cast(image, tf.float32) / tf.cast(tf.reduce_max(image), tf.float32)
      means = tf.image.resize(image, (8, 8), method="area")
      return means * tf.linspace(0.5, 1.5, 1376)

  class QFormer(tf.Module):
    """Tells the map's mean and the ids' sum in every output."""

    @tf.function(
      input_signature=[
        tf.TensorSpec([None, 8, 8, 1376], tf.float32, "image_feature"),
        tf.TensorSpec([None, 1, 128], tf.int32, "ids"),
        tf.TensorSpec([None, 1, 128], tf.float32, "paddings"),
      ]
    )
    def serve(self, image_feature, ids, paddings):
      seen = tf.reduce_mean(image_feature, (1, 2))
      read = tf.cast(ids[:, 0], tf.float32) / 30522 - paddings[:, 0]
      return {
        "img_emb": seen[:, :32, None] * tf.ones(768),
        "all_contrastive_img_emb": seen[:, :32, None] * tf.ones(128),
        "contrastive_img_emb": seen[:, :128],
        "txt_emb": read[:, :, None] * tf.ones(768),
        "contrastive_txt_emb": read,
      }

  folder = tmp_path_factory.mktemp("elixr")
  for name, module in (
    ("elixr-c-v2-pooled", ElixrC()),
    ("pax-elixr-b-text", QFormer()),
  ):
    signatures = {"serving_default": module.serve}
    tf.saved_model.save(module, str(folder / name), signatures=signatures)
  return folder
