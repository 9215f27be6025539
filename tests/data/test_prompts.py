"""Prompts: the findings can be read back exactly, and the phrasing follows the seed."""

import itertools

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels, prompts


def test_any_label_set_is_read_back():
  rng = np.random.default_rng(0)
  for seed in range(2000):
    row = rng.random(14) < rng.choice([0, 0.1, 0.3, 1])
    names = labels.names_of(row)
    text = prompts.prompt(
      rng.permutation(names).tolist(),
      view=rng.choice(["PA", "AP", None]),
      age=rng.choice([np.nan, rng.uniform(0, 100)]),
      sex=rng.choice(["M", "F", None]),
      seed=seed,
    )
    assert prompts.findings_of(text) == names, text


def test_every_phrase_names_its_finding_alone():
  for name, phrases in prompts.PHRASES.items():
    for phrase in phrases:
      assert prompts.findings_of(phrase) == (name,)
  assert set(prompts.PHRASES) == set(prompts.PATTERNS) == set(labels.FINDINGS)
  fixed = itertools.chain(prompts.NONE_PHRASES, prompts.TEMPLATES)
  assert all(not prompts.findings_of(text) for text in fixed)


def test_view_age_and_sex_are_told():
  for seed in range(20):
    text = prompts.prompt(["Mass"], view="AP", age=61.0, sex="F", seed=seed)
    assert {"ap", "anteroposterior"} & set(text.replace(")", " ").split()) or (
      "(ap" in text or "(anteroposterior" in text
    )
    assert "61 year old" in text
    assert "woman" in text or "female" in text


def test_unknowns_are_left_out():
  for seed in range(40):
    text = prompts.prompt([], seed=seed)
    assert "year" not in text
    assert "None" not in text
    assert "nan" not in text
    assert "(frontal)" not in text
    assert not {"man", "woman", "pa", "ap"} & set(text.strip(".").split())


def test_seed_chooses_the_phrasing():
  def texts(seeds):
    return [prompts.prompt(["Edema", "Effusion"], view="PA", seed=s) for s in seeds]

  assert texts(range(20)) == texts(range(20))
  assert len(set(texts(range(60)))) > 20
  by_name = [f"{k:08d}_000" for k in range(30)]
  assert len(set(texts(by_name))) > 10


def test_age_takes_the_right_article():
  text = prompts.prompt([], age=82.4, sex="M", seed=3)
  assert "an 82 year old" in text
  assert "a 79 year old" in prompts.prompt([], age=79, sex="M", seed=3)


def test_spellings_are_taken_and_unknown_names_refused():
  text = prompts.prompt(["Infiltrate", "pleural thickening"], seed=1)
  assert prompts.findings_of(text) == ("Infiltration", "Pleural_Thickening")
  with pytest.raises(errors.InputError, match="unknown finding 'Fracture'"):
    prompts.prompt(["Fracture"])


def test_a_users_own_words_are_understood():
  found = prompts.findings_of("Large right PNEUMOTHORAX and a small nodule")
  assert found == ("Nodule", "Pneumothorax")


def test_prompts_fit_the_usual_text_encoder():
  # CLIP reads 77 tokens; four findings, the most that is common, must fit in words.
  longest = max(
    len(prompts.prompt(labels.FINDINGS[:4], view="PA", age=88, sex="M", seed=s).split())
    for s in range(50)
  )
  assert longest < 40
