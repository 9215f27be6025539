"""Stand-ins of ELIXR have its shapes and keep images from text."""

import pathlib

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import small as clip_small
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr

KINDS = tuple(SHAPES)
PROMPTS = ["no finding", "large effusion", "a mass", "edema", "no finding"]


def save_clip(folder: pathlib.Path, patch_size: int) -> pathlib.Path:
  sizes = clip_small.SmallClip(
    image_size=32, patch_size=patch_size, width=16, image_layers=1, text_layers=1,
    num_heads=2, embedding=8, num_merges=30, max_tokens=16,
  )  # fmt: skip
  model = clip_small.create(
    np.random.default_rng(0),
    sizes=sizes,
    tokenizer=clip_small.train_tokenizer(PROMPTS, sizes),
    pixel_mean=0.5,
    pixel_std=0.25,
  )
  clip_small.save(model, folder)
  return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> pathlib.Path:
  return save_clip(tmp_path_factory.mktemp("clip"), patch_size=4)


@pytest.fixture(scope="module")
def model(clip) -> clip_model.ClipModel:
  return clip_model.load(clip)


@pytest.fixture(scope="module")
def encoder(model) -> standin_elixr.StandinEncoder:
  return standin_elixr.StandinEncoder(model=model)


@pytest.fixture(scope="module")
def inputs() -> dict[str, object]:
  images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), np.uint8)
  return {"images": images, "prompts": PROMPTS}


def test_elixr_standin_takes_images_from_images_and_text_from_text(encoder, inputs):
  images = encoder.encode_images(KINDS, inputs["images"])
  texts = encoder.encode_text(KINDS, PROMPTS)
  assert set(images).isdisjoint(texts)
  values = images | texts
  for kind, shape in SHAPES.items():
    assert values[kind].shape == (5, *shape)
    # Two prompts are the same.
    num_different = len({row.tobytes() for row in values[kind]})
    assert num_different == (4 if "txt" in kind else 5)


def test_elixr_standin_does_not_depend_on_the_batch(encoder, inputs):
  together = encoder.encode_images(KINDS, inputs["images"])
  alone = encoder.encode_images(KINDS, inputs["images"][2:3])
  for kind, values in alone.items():
    np.testing.assert_allclose(values[0], together[kind][2], atol=1e-4)


def test_elixr_standin_map_is_aligned_with_the_image(encoder, inputs):
  changed = inputs["images"][:1].copy()
  changed[0, 28:, 4:8] = 255
  before = encoder.encode_images(["elixrc"], inputs["images"][:1])["elixrc"]
  after = encoder.encode_images(["elixrc"], changed)["elixrc"]
  difference = np.square(after - before).sum(axis=-1)[0]
  assert np.unravel_index(difference.argmax(), (8, 8)) == (7, 1)


def test_lift_keeps_mean_square_angles_and_everything(model):
  states = np.random.default_rng(0).standard_normal((3, 5, 16)).astype(np.float32)
  lifted = standin_elixr.lift(states, 1376)
  assert lifted.shape == (3, 5, 1376)
  np.testing.assert_allclose(
    np.square(lifted).mean(axis=-1), np.square(states).mean(axis=-1), rtol=1e-4
  )
  basis = standin_elixr.lift_basis(16, 1376)
  np.testing.assert_allclose(basis @ basis.T, np.eye(16), atol=1e-5)
  np.testing.assert_allclose(
    lifted @ basis.T * np.sqrt(16 / 1376), states, rtol=1e-3, atol=1e-4
  )


def test_elixr_standin_keeps_the_cosines_of_clip(encoder, model, inputs):
  images = encoder.encode_images(KINDS, inputs["images"])
  texts = encoder.encode_text(KINDS, PROMPTS)
  _, whole = clip_model.encode_images(model, inputs["images"])
  _, _, text = clip_model.encode_text(model, PROMPTS)
  norms = np.linalg.norm(whole, axis=1)[:, None] * np.linalg.norm(text, axis=1)
  np.testing.assert_allclose(
    images["contrastive_img_emb"] @ texts["contrastive_txt_emb"].T,
    whole @ text.T / norms,
    atol=1e-4,
  )
  for kind, values in (images | texts).items():
    if "contrastive" in kind:
      np.testing.assert_allclose(np.linalg.norm(values, axis=-1), 1, atol=1e-4)


def test_elixr_standin_text_states_are_zero_after_the_end(encoder, model):
  states = encoder.encode_text(["txt_emb"], PROMPTS)["txt_emb"]
  _, mask, _ = clip_model.encode_text(model, PROMPTS)
  assert ((np.abs(states).sum(axis=-1) > 0)[:, :16] == mask).all()
  assert (states[:, 16:] == 0).all()


def test_load_refuses_a_clip_of_another_grid(tmp_path):
  other = save_clip(tmp_path / "clip", patch_size=8)
  with pytest.raises(errors.InputError, match="4x4 patches"):
    standin_elixr.load(other)
