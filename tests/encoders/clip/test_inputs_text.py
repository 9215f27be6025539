"""Prompts become windows that lose no word silently; a foreign tokenizer is refused."""

import copy
import itertools
import math
import pathlib
import shutil
import types

from absl import logging as absl_logging
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.clip import inputs as clip_inputs
from cxr_diffusion_jax.encoders.clip import model as clip_model

FOLDER = pathlib.Path(__file__).parent / "torch_clip"
LENGTH = 16


@pytest.fixture(scope="module")
def tokenizer():
  return clip_model.library().CLIPTokenizerFast.from_pretrained(FOLDER)


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
  """What is warned of."""
  messages = []
  monkeypatch.setattr(
    absl_logging, "warning", lambda text, *values: messages.append(text % values)
  )
  return messages


def test_windows_of_one_equal_the_tokenizer(tokenizer):
  prompts = ["", "a", "no finding", "PA chest, small left pneumothorax", "é Ω\n\t!?"]
  ids, mask = clip_inputs.windows(tokenizer, prompts, max_tokens=LENGTH, chunks=1)
  own = tokenizer(prompts, padding="max_length", truncation=True, max_length=LENGTH)
  np.testing.assert_array_equal(ids[:, 0], own["input_ids"])
  np.testing.assert_array_equal(mask[:, 0], own["attention_mask"])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ab ,.é", max_size=60), min_size=1, max_size=4))
def test_windows_together_hold_every_word_in_order(tokenizer, prompts):
  options = {"add_special_tokens": False, "verbose": False}
  texts = tokenizer(prompts, **options)["input_ids"]
  chunks = max(1, *(math.ceil(len(text) / (LENGTH - 2)) for text in texts))
  ids, mask = clip_inputs.windows(tokenizer, prompts, max_tokens=LENGTH, chunks=chunks)
  assert ids.shape == mask.shape == (len(prompts), chunks, LENGTH)
  assert mask[:, 0].any(axis=-1).all()
  for text, rows, real in zip(texts, ids, mask, strict=True):
    used = [row[keep].tolist() for row, keep in zip(rows, real, strict=True)]
    words = [row[1:-1] for row in used if row]
    assert list(itertools.chain.from_iterable(words)) == text
    assert all(words) or text == []
    for row in filter(None, used):
      assert row[0] == tokenizer.bos_token_id
      assert row[-1] == tokenizer.eos_token_id
    # Masks are True at the front only.
    assert (np.diff(real.astype(int), axis=-1) <= 0).all()


def test_windows_warn_once_a_call_about_cut_text(warnings):
  tokenizer = clip_model.library().CLIPTokenizerFast.from_pretrained(FOLDER)
  prompts = ["ab", "abcdefghijklmn tail of it", "abcdefghijklmno", "abcdefghijklmn"]
  clip_inputs.windows(tokenizer, prompts, max_tokens=LENGTH, chunks=1)
  assert warnings == [
    "2 of 4 prompts were cut at 14 tokens; the first is prompt 1, which lost 8: "
    "'tail of it'; 2 chunks would keep all"
  ]
  clip_inputs.windows(tokenizer, prompts, max_tokens=LENGTH, chunks=2)
  assert len(warnings) == 1
  # transformers' own warning says less; it remembers here that it warned.
  assert not tokenizer.deprecation_warnings


def test_windows_shorten_a_long_tail(tokenizer, warnings):
  clip_inputs.windows(tokenizer, ["word " * 500], max_tokens=LENGTH, chunks=3)
  assert len(warnings[0]) < 300
  assert "143 chunks would keep all" in warnings[0]


def test_windows_of_zero_are_refused(tokenizer):
  with pytest.raises(ValueError, match="got 0 chunks"):
    clip_inputs.windows(tokenizer, ["a"], max_tokens=LENGTH, chunks=0)


def _config(**changes) -> types.SimpleNamespace:
  """What the text model of the folder's CLIP says of itself."""
  own = {"vocab_size": 514, "eos_token_id": 513, "max_position_embeddings": LENGTH}
  return types.SimpleNamespace(**own | changes)


@pytest.mark.parametrize(
  "changes", [{}, {"eos_token_id": 2}, {"vocab_size": 600}], ids=str
)
def test_check_tokenizer_accepts_the_models_own(changes, tokenizer):
  assert clip_inputs.check_tokenizer(tokenizer, _config(**changes), FOLDER) is None


def test_check_tokenizer_accepts_one_without_a_length():
  unlimited = clip_model.library().CLIPTokenizerFast(
    vocab_file=str(FOLDER / "vocab.json"), merges_file=str(FOLDER / "merges.txt")
  )
  assert unlimited.model_max_length > clip_inputs.UNSET
  clip_inputs.check_tokenizer(unlimited, _config(), FOLDER)


@pytest.mark.parametrize(
  ("changes", "messages"),
  [
    ({"vocab_size": 500}, "has 514 ids in .*; expected at most 500"),
    ({"eos_token_id": 400}, "ends a text with id 513 in .*; expected 400"),
    # Pooled at the largest id: another vocabulary's end is found, and means nothing.
    (
      {"eos_token_id": 2, "vocab_size": 49408},
      "ends a text with id 513 in .*; expected 49407",
    ),
    ({"max_position_embeddings": 77}, "cuts at 16 tokens in .*; expected 77"),
  ],
)
def test_check_tokenizer_reports_one_of_another_model(changes, messages, tokenizer):
  with pytest.raises(errors.InputError, match=messages):
    clip_inputs.check_tokenizer(tokenizer, _config(**changes), FOLDER)


def test_check_tokenizer_reports_one_without_a_start_token(tokenizer):
  startless = copy.deepcopy(tokenizer)
  startless.bos_token = None
  with pytest.raises(errors.InputError, match="no start token"):
    clip_inputs.check_tokenizer(startless, _config(), FOLDER)


@pytest.mark.parametrize(
  ("file", "text"),
  [
    ("tokenizer.json", "{}"),
    ("merges.txt", "#version: 0.2\na b c\n"),
    ("tokenizer_config.json", '{"tokenizer_class": "BertTokenizer"}'),
  ],
)
def test_load_tokenizer_reports_unreadable_files(file, text, tmp_path):
  folder = pathlib.Path(shutil.copytree(FOLDER, tmp_path / "clip"))
  (folder / file).write_text(text, encoding="utf-8")
  loader = clip_model.library().AutoTokenizer
  with pytest.raises(errors.InputError, match=r"the tokenizer in .* cannot be read"):
    clip_inputs.load_tokenizer(loader, folder, _config())
