"""A small CLIP is a CLIP: its tokenizer takes any text, its folder loads as any."""

import numpy as np
import pytest

from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import small as clip_small

PROMPTS = [
  "PA chest X-ray, small left pneumothorax",
  "AP chest X-ray, no finding",
  "PA chest X-ray, large effusion and edema",
] * 3


@pytest.fixture(scope="module")
def sizes() -> clip_small.SmallClip:
  return clip_small.SmallClip(
    image_size=16, patch_size=8, width=16, image_layers=1, text_layers=1, num_heads=2,
    embedding=8, num_merges=60, max_tokens=24,
  )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(sizes):
  return clip_small.train_tokenizer(PROMPTS, sizes)


def test_train_tokenizer_makes_frequent_words_tokens(tokenizer):
  ids = tokenizer("chest PA")["input_ids"]
  words = tokenizer.convert_ids_to_tokens(ids)
  assert words == ["<|startoftext|>", "chest</w>", "pa</w>", "<|endoftext|>"]
  assert len(tokenizer) <= 512 + 60 + 2
  assert tokenizer.eos_token_id == len(tokenizer) - 1


def test_train_tokenizer_encodes_any_text_and_ends_once(tokenizer):
  for text in ["", "Größe Ω 胸部", "x!?\n\ttab", "Zzz 414Y"]:
    ids = tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
  decoded = tokenizer.decode(
    tokenizer("größe ω")["input_ids"], skip_special_tokens=True
  )
  assert decoded.split() == ["größe", "ω"]


def test_train_tokenizer_is_a_function_of_the_prompts(tokenizer, sizes):
  again = clip_small.train_tokenizer(list(PROMPTS), sizes)
  assert again.get_vocab() == tokenizer.get_vocab()


def test_save_writes_a_model_that_loads_as_any_clip(tokenizer, sizes, tmp_path, capfd):
  model = clip_small.create(
    np.random.default_rng(0),
    sizes=sizes,
    tokenizer=tokenizer,
    pixel_mean=0.5,
    pixel_std=0.25,
  )
  clip_small.save(model, tmp_path)
  loaded = clip_model.load(tmp_path)
  assert capfd.readouterr().err == ""
  assert loaded.standin
  assert clip_model.describe(loaded) == clip_model.describe(model)
  assert clip_model.describe(loaded).startswith("stand-in CLIP")
  assert loaded.pixels == model.pixels
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
  for ours, theirs in zip(
    (*clip_model.encode_images(model, images), *clip_model.encode_text(model, PROMPTS)),
    (
      *clip_model.encode_images(loaded, images),
      *clip_model.encode_text(loaded, PROMPTS),
    ),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_create_depends_on_the_seed(tokenizer, sizes):
  prints = {
    clip_model.fingerprint(
      clip_small.create(
        np.random.default_rng(seed),
        sizes=sizes,
        tokenizer=tokenizer,
        pixel_mean=0.5,
        pixel_std=0.25,
      )
    )
    for seed in (0, 0, 1)
  }
  assert len(prints) == 2
