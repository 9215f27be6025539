"""The column of latents: the network's own numbers, made once for each autoencoder."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.encoders.latents import columns as latent_columns
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import preparation

NUM_IMAGES = 24


@pytest.fixture(scope="module")
def autoencoder(make_autoencoder, tmp_path_factory):
  """One object for all tests: its program is compiled once."""
  return autoencoders.find(str(make_autoencoder(tmp_path_factory.mktemp("f2") / "a")))


@pytest.fixture(autouse=True)
def encoded(monkeypatch) -> list[int]:
  """Batches of eight, and how many images each brought."""
  counts = []
  encode = autoencoders.Autoencoder.encode

  def counted(self, images):
    counts.append(len(images))
    return encode(self, images)

  monkeypatch.setattr(autoencoders.Autoencoder, "encode", counted)
  monkeypatch.setattr(autoencoders.Autoencoder, "batch_size", lambda self, side: 8)
  return counts


@pytest.fixture
def records(settings, open_records) -> records_lib.Records:
  return open_records(settings)


def values(column, split):
  return np.stack(list(column.source(split)))


def test_make_writes_the_networks_latents_in_row_order(settings, records, autoencoder):
  latent_columns.make(settings, records, autoencoder)
  column = latent_columns.open_column(settings, autoencoder)
  about = column.description
  assert (about.shape, about.dtype) == ((16, 16, 4), "float16")
  assert about.encoder == autoencoder.description
  sums = []
  for split, count in records.num_rows.items():
    if not count:
      continue
    source = records_lib.RecordSource(records, split)
    images = np.stack([source[row]["image"] for row in range(count)])
    wanted = autoencoder.encode(images)
    np.testing.assert_allclose(values(column, split), wanted, rtol=1e-3, atol=1e-3)
    if split == "train":
      mean, logvar = np.split(wanted, 2, axis=-1)
      drawn = mean + np.exp(logvar / 2) * np.random.default_rng(0).standard_normal(
        mean.shape
      )
      sums = drawn.mean(), drawn.std()
  reported = latent_columns.statistics(column)["latent"]
  assert reported["num_images"] == records.num_rows["train"]
  assert math.isclose(reported["mean"], sums[0], abs_tol=0.05)
  assert math.isclose(reported["std"], sums[1], rel_tol=0.05)
  modes = latent_columns.statistics(column)["modes"]
  assert modes == sorted(modes, reverse=True)
  assert modes[0] > 0


def test_make_resumes_and_encodes_nothing_twice(
  settings, records, autoencoder, encoded
):
  def stop(label, done, total):
    assert (label, total) == ("column latent", NUM_IMAGES), label
    if done >= 16:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    latent_columns.make(settings, records, autoencoder, stop, rows_at_risk=8)
  assert latent_columns.open_column(settings, autoencoder) is None
  latent_columns.make(settings, records, autoencoder)
  assert encoded == [8, 8, 8]
  latent_columns.make(settings, records, autoencoder)
  assert encoded == [8, 8, 8]


def test_make_gives_each_autoencoder_a_column(
  settings, records, autoencoder, encoded, make_autoencoder, tmp_path
):
  latent_columns.make(settings, records, autoencoder)
  moved = autoencoders.find(shutil.copytree(autoencoder.name, tmp_path / "moved"))
  latent_columns.make(settings, records, moved)
  assert len(encoded) == 3
  other = autoencoders.find(str(make_autoencoder(tmp_path / "other", seed=1)))
  latent_columns.make(settings, records, other)
  columns = [
    latent_columns.open_column(settings, one) for one in (autoencoder, moved, other)
  ]
  assert columns[0].folder == columns[1].folder != columns[2].folder
  assert np.abs(values(columns[0], "test") - values(columns[2], "test")).max() > 0.1


def test_columns_replace_images_in_batches(settings, autoencoder):
  dataset = dataset_lib.prepare(settings, conditioning.Needs(), autoencoder=autoencoder)
  batch = dataset.source("train", images=False).batch([0, 1])
  assert "image" not in batch
  assert batch["latent"].shape == (2, 16, 16, 4)
  assert dataset.source("train").batch([0])["image"].shape == (1, 32, 32, 1)
  described = json.loads(json.dumps(dataset.card.to_json()))
  assert described["statistics"]["latent"]["std"] > 0
  assert described["latents"]["latent"]["encoder"] == autoencoder.description
  assert described["columns"] == {}


def test_make_refuses_an_indivisible_image_size(settings, records, autoencoder):
  odd = dataclasses.replace(settings, image_size=33)
  with pytest.raises(errors.InputError, match=r"image size 33 .* multiple of 2"):
    latent_columns.make(odd, records, autoencoder)


def test_make_share_leaves_the_joining_alone(settings, records, autoencoder, encoded):
  asked = preparation.Asked(needs=conditioning.Needs(), autoencoder=autoencoder)
  for part in (1, 0):
    text = preparation.make_share(settings, asked, (part, 2))
    assert text.startswith(f"share {part} of 2 is made")
  assert latent_columns.open_column(settings, autoencoder) is None
  assert sum(encoded) == sum(records.num_rows.values())
  dataset = dataset_lib.prepare(settings, asked.needs, autoencoder=autoencoder)
  assert sum(encoded) == sum(records.num_rows.values())
  source = records_lib.RecordSource(records, "train")
  images = np.stack([source[row]["image"] for row in range(3)])
  expected = autoencoder.encode(images).astype(np.float16)
  np.testing.assert_array_equal(values(dataset.latents[0], "train")[:3], expected)
