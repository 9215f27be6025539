"""Images and prompts: planted pairs score high, shuffled ones as chance."""

import types

import numpy as np
import pytest

from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import encoding
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.evaluation.comparison import paths as paths_lib
from cxr_diffusion_jax.evaluation.judges import alignment, opening
from cxr_diffusion_jax.run import sections


def embeddings(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Texts [n 16] and images [n 16], which are the texts and noise."""
  rng = np.random.default_rng(seed)
  texts = rng.standard_normal((n, 16))
  return texts + noise * rng.standard_normal((n, 16)), texts


def names(n: int, prefix: str = "p") -> np.ndarray:
  return np.array([f"{prefix}{i}" for i in range(n)])


def test_alignment_of_planted_pairs_and_of_shuffled_ones():
  images, texts = embeddings(200, noise=1.0)
  prompts = names(200, "prompt ").tolist()
  own, other, auroc = alignment.alignment(images, texts, prompts, names(200))
  assert own.value == pytest.approx(1 / np.sqrt(2), abs=0.05)
  assert abs(other.value) < 0.02
  assert auroc.value > 0.97
  shuffled = np.random.default_rng(1).permutation(texts)
  own, other, auroc = alignment.alignment(images, shuffled, prompts, names(200))
  fields = auroc.fields((0.0, 1.0))
  assert fields["low"] < 0.5 < fields["high"]
  assert abs(own.value - other.value) < 0.06


def test_alignment_equals_the_definition_pair_by_pair():
  images, texts = embeddings(12, noise=2.0)
  prompts = [f"prompt {i % 5}" for i in range(12)]
  patients = np.array([f"p{i // 2}" for i in range(12)])
  own, other, auroc = (
    one.value for one in alignment.alignment(images, texts, prompts, patients)
  )
  cosine = np.array(
    [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in texts] for x in images]
  )
  pairs = [
    (i, j)
    for i in range(12)
    for j in range(12)
    if prompts[i] != prompts[j] and patients[i] != patients[j]
  ]
  assert own == pytest.approx(np.diag(cosine).mean(), abs=1e-6)
  assert other == pytest.approx(np.mean([cosine[i, j] for i, j in pairs]), abs=1e-6)
  won = np.mean([cosine[i, i] > cosine[i, j] for i, j in pairs])
  assert auroc == pytest.approx(won, abs=1e-6)


def test_judge_measures_the_prompts_of_the_conditions():
  images, texts = embeddings(30, noise=0.5)
  by_prompt = {f"text of {i}": texts[i] for i in range(30)}
  judge = alignment.AlignmentJudge(
    extractor=types.SimpleNamespace(name="clip", standin=True),
    encode_fn=lambda prompts: np.stack([by_prompt[text] for text in prompts]),
    prompts_fn=lambda ids: [f"text of {name}" for name in ids],
  )
  judged = ImageSet(
    name="made",
    images=np.zeros((30, 8, 8, 1), np.uint8),
    ids=np.array([str(i) for i in range(30)]),
    labels={"patient": names(30)},
  )
  figures = {
    one.metric: one for one in judge.measure(judged, "generated", {"clip": images})
  }
  assert list(figures) == [record.name for record in alignment.METRICS]
  assert figures["text_retrieval_auroc"].value > 0.95
  assert figures["text_alignment"].low < figures["text_alignment"].value
  assert {one.patients for one in figures.values()} == {30}
  assert all(one.standin and one.of == "generated" for one in figures.values())
  few = judge.measure(judged.take(range(9)), "real", {"clip": images[:9]})
  assert {one.reason for one in few} == {"9 images, fewer than 20"}
  assert judge.measure(judged, "real", {}) == []
  # One text for all: there is no other prompt.
  alike = alignment.alignment(images, texts, ["same"] * 30, names(30))
  assert [np.isfinite(one.value) for one in alike] == [True, False, False]


def test_unranked_names_alignment_by_a_paths_own_clip():
  paths = [
    types.SimpleNamespace(name=name, reconstructs=False, encoders=encoders)
    for name, encoders in (("clip_text", {"clip"}), ("bert_text", {"bert"}))
  ]
  key = ("adherence", "text_alignment", "clip, images and prompts", "all")
  assert paths_lib.unranked(paths, key) == {
    "clip_text": "circular: judged by clip, its own encoder"
  }


def test_of_prompts_reads_the_prompts_of_the_conditions(small, monkeypatch):
  plain = sections.plain(small.config())
  settings = sections.make(DataSettings, "data", plain["data"])
  records = records_lib.prepare_records(settings)
  loaded = []
  monkeypatch.setattr(clip_model, "load", loaded.append)

  def encode_text(model, texts):
    letters = [[text.count(letter) for letter in "aeiounrst,. "] for text in texts]
    return None, None, np.array(letters, np.float32)

  monkeypatch.setattr(clip_model, "encode_text", encode_text)
  clip = types.SimpleNamespace(name="clip", standin=False)
  assert opening.of_prompts([], {}, settings, records) == "no clip features"
  judge = opening.of_prompts([clip], {"clip": "folder"}, settings, records)
  images = image_set.of_records(records, "train")
  prompts = encoding.record_prompts(settings, records, "train")
  features = {"clip": encode_text(None, prompts)[2]}
  own = {one.metric: one.value for one in judge(images, "real", features)}
  judge(images, "generated", features)
  # The texts are encoded once.
  assert loaded == ["folder"]
  assert own["text_alignment"] == pytest.approx(1, abs=1e-5)
  assert own["text_retrieval_auroc"] > 0.99
