"""PNGs and ids are made as CXR Foundation's serving code makes them."""

import io
import pathlib

import huggingface_hub
import numpy as np
from PIL import Image
import pytest
import tokenizers
import transformers

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.elixr import model as elixr_model

WORDS = (
  "large", "left", "pleural", "effusion", "no", "##thorax", "pneumo", "e", "##mph",
  "##y", "##se", "##ma", ".", ",", "-", "(", ")", "2", "##nd", "肺", "[", "]", "sep",
)  # fmt: skip


def vocabulary(folder: pathlib.Path, **changes: str) -> pathlib.Path:
  """Writes a vocabulary like BERT-uncased's; `w101="x"` changes a word."""
  words = [f"[unused{i}]" for i in range(30522)]
  words[0], words[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  words[1000 : 1000 + len(WORDS)] = WORDS
  # BERT's own vocabulary has such words too: they are not ends of lines.
  words[2000], words[2001] = "\u2028", "\x85"
  for place, word in changes.items():
    words[int(place[1:])] = word
  (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  return vocabulary(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def tokenizer(folder) -> tokenizers.Tokenizer:
  return elixr_model.load_tokenizer(folder)


def decoded(png: bytes) -> tuple[np.ndarray, int]:
  bits = png[24]
  with Image.open(io.BytesIO(png)) as image:
    return np.asarray(image).astype(np.int64), bits


def test_to_png_stretches_eight_bits_to_their_range():
  image = np.array([[10, 60], [110, 210]], np.uint8)
  pixels, bits = decoded(elixr_model.to_png(image))
  assert bits == 16
  # 50 / 200 * 255 = 63.75: cut off, as the serving code does.
  np.testing.assert_array_equal(pixels, [[0, 63], [127, 255]])


def test_to_png_stretches_sixteen_bits_to_their_range():
  image = np.array([[1000, 2000, 5000]], np.uint16)
  pixels, bits = decoded(elixr_model.to_png(image))
  assert bits == 16
  np.testing.assert_array_equal(pixels, [[0, 16383, 65535]])


def test_to_png_keeps_an_image_of_the_whole_range():
  image = np.arange(256, dtype=np.uint8).reshape(8, 32)
  np.testing.assert_array_equal(decoded(elixr_model.to_png(image))[0], image)


@pytest.mark.parametrize(
  "image", [np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4), np.float32)]
)
def test_to_png_refuses_other_arrays(image):
  with pytest.raises(ValueError, match=r"not \[h w\] uint8 or uint16"):
    elixr_model.to_png(image)


def test_tokenize_masks_the_end_and_keeps_the_start(tokenizer):
  ids, paddings, cut = elixr_model.tokenize(tokenizer, ["Large Effusion.", "no"])
  assert (ids.shape, ids.dtype) == ((2, 1, 128), np.int32)
  assert (paddings.shape, paddings.dtype) == ((2, 1, 128), np.float32)
  assert ids[0, 0, :5].tolist() == [101, 1000, 1003, 1012, 0]
  assert paddings[0, 0, :5].tolist() == [0, 0, 0, 0, 1]
  assert ids[1, 0, :3].tolist() == [101, 1004, 0]
  assert paddings[1].sum() == 126
  assert (ids[0, 0, 4:] == 0).all()
  assert not (ids == 102).any()
  assert cut == ()


def test_tokenize_splits_words_as_bert_does(folder, tokenizer):
  texts = [
    "Emphyséma, (2nd) LEFT-pleural PNEUMOTHORAX\t\n no.",
    "肺effusion zzz [SEP] [CLS] no",
    "",
    "  no \u00a0 no\u0000no ",
  ]
  reference = transformers.BertTokenizer(str(folder / "vocab.txt"))
  ids, paddings, _ = elixr_model.tokenize(tokenizer, texts)
  for row, text in enumerate(texts):
    wanted = reference(text.lower(), padding="max_length", max_length=128)
    expected = np.array(wanted["input_ids"])
    end = int(np.flatnonzero(expected == 102)[0])
    expected[end] = 0
    np.testing.assert_array_equal(ids[row, 0], expected)
    np.testing.assert_array_equal(paddings[row, 0], np.arange(128) >= end)


def test_tokenize_reports_text_that_does_not_fit(tokenizer):
  texts = [" ".join(["no"] * 125 + ["left", "effusion", "large"]), "no " * 126]
  ids, paddings, cut = elixr_model.tokenize(tokenizer, texts)
  assert cut == ("effusion large",)
  # [CLS] and 126 words; the last place was the end's.
  assert ids[:, 0, 126].tolist() == [1001, 1004]
  assert (ids[:, 0, 127] == 0).all()
  assert (paddings[:, 0].sum(axis=-1) == 1).all()


def test_load_tokenizer_reads_a_file_or_the_hub(folder, tokenizer, monkeypatch):
  asked = []

  def download(*arguments):
    asked.append(arguments)
    return str(folder / "vocab.txt")

  monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
  for name in (folder / "vocab.txt", "google-bert/bert-base-uncased"):
    again = elixr_model.load_tokenizer(name)
    assert again.encode("left").ids == tokenizer.encode("left").ids
  assert asked == [("google-bert/bert-base-uncased", "vocab.txt")]


@pytest.mark.parametrize(
  ("changes", "reported"),
  [
    ({"w101": "x", "w2": "[CLS]"}, r"\[CLS\] at 2"),
    ({"w102": "x"}, r"\[SEP\] at no place"),
    ({"w30521": "a\nb"}, "30523 words"),
  ],
)
def test_load_tokenizer_refuses_another_vocabulary(tmp_path, changes, reported):
  with pytest.raises(errors.InputError, match=reported):
    elixr_model.load_tokenizer(vocabulary(tmp_path, **changes))


def test_load_tokenizer_reports_a_missing_vocabulary(tmp_path, monkeypatch):
  with pytest.raises(errors.InputError, match="no vocabulary in"):
    elixr_model.load_tokenizer(tmp_path)

  def download(*arguments):
    raise OSError("no network")

  monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
  with pytest.raises(errors.InputError, match="no network"):
    elixr_model.load_tokenizer("some/bert")
