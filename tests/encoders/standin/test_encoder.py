"""The stand-in as an encoder says and gives what its files have."""

import dataclasses

import numpy as np
import pytest

from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr

TEXTS = ("contrastive_txt_emb", "txt_emb")
IMAGES = tuple(kind for kind in elixr.SHAPES if kind not in TEXTS)


@pytest.fixture(scope="module")
def encoder(standin_clip) -> standin_elixr.StandinEncoder:
  return standin_elixr.StandinEncoder(model=clip_model.load(standin_clip))


def test_standin_encoder_makes_all_kinds(encoder):
  of_protocol: encoder_lib.Encoder = encoder
  assert dict(of_protocol.shapes) == dict(elixr.SHAPES)
  assert of_protocol.standin
  assert not of_protocol.whole_images
  assert of_protocol.description.startswith("stand-in CLIP")


def test_shapes_and_types_are_the_published_ones(encoder):
  squares = [np.full((20, 20), grey, np.uint8) for grey in (10, 200)]
  result = encoder.encode_images(IMAGES, squares)
  result |= encoder.encode_text(TEXTS, ["an effusion", "clear"])
  for kind, shape in elixr.SHAPES.items():
    assert result[kind].shape == (2, *shape)
    assert result[kind].dtype == np.float32
    assert np.isfinite(result[kind]).all()
    assert np.abs(result[kind][0] - result[kind][1]).max() > 0


def test_standin_encoder_computes_only_requested_columns(encoder):
  square = [np.zeros((20, 20), np.uint8)]
  assert set(encoder.encode_images(["img_emb"], square)) == {"img_emb"}
  assert set(encoder.encode_text(["txt_emb"], ["a"])) == {"txt_emb"}


def test_standin_encoder_is_identified_by_its_weights(encoder):
  params = dict(encoder.model.params)
  params["logit_scale"] = params["logit_scale"] + 1
  other = dataclasses.replace(encoder.model, params=params, name="elsewhere")
  same = dataclasses.replace(encoder.model, name="elsewhere")
  describe = [
    standin_elixr.StandinEncoder(model=model).description for model in (other, same)
  ]
  assert describe[0] != encoder.description
  assert describe[1] == encoder.description
