"""Prompts: the findings can be read back exactly, and the phrasing follows the seed."""

import functools
import itertools
import json
import re
import string

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels, prompts
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.extras.phantom import anatomy as phantom_anatomy
from cxr_diffusion_jax.extras.phantom import render as phantom_render
from tests.fixtures import places
from tests.prompt_reader import findings_of

FRACTION = st.floats(0, 1, width=32)
BOX = st.one_of(st.none(), st.tuples(FRACTION, FRACTION, FRACTION, FRACTION))


def boxes_of(**boxes: tuple[float, float, float, float]) -> np.ndarray:
  """[14 4], nan but for the findings named."""
  table = np.full((14, 4), np.nan, np.float32)
  for name, box in boxes.items():
    table[labels.finding_index(name, metadata.FINDINGS)] = box
  return table


@settings(max_examples=400, deadline=None)
@given(
  names=st.sets(st.sampled_from(metadata.FINDINGS)),
  boxes=st.lists(BOX, min_size=14, max_size=14),
  view=st.sampled_from(["PA", "AP", None, ""]),
  age=st.one_of(st.none(), st.just(np.nan), st.floats(0, 120)),
  sex=st.sampled_from(["M", "F", None]),
  seed=st.integers(0, 10**6),
)
def test_prompt_of_any_labels_is_read_back(names, boxes, view, age, sex, seed):
  table = np.array([box or [np.nan] * 4 for box in boxes], np.float32)
  text = prompts.prompt(
    sorted(names), view=view, age=age, sex=sex, boxes=table, seed=seed
  )
  assert findings_of(text) == tuple(sorted(names)), text
  assert text == text.lower()
  assert "  " not in text
  assert not re.search(r"[{}]|\bnan\b|none|\ba [aeiou]", text), text


@settings(max_examples=400, deadline=None)
@given(
  names=st.sets(st.sampled_from(metadata.FINDINGS)),
  boxes=st.lists(BOX, min_size=14, max_size=14),
  seed=st.integers(0, 10**6),
)
def test_place_of_is_read_back_from_prompts(names, boxes, seed):
  table = np.array([box or [np.nan] * 4 for box in boxes], np.float32)
  expected = {}
  for name in names - {"Cardiomegaly", "Hernia"}:
    place = prompts.place_of(table[labels.finding_index(name, metadata.FINDINGS)])
    if any(place):
      expected[name] = place
  text = prompts.prompt(sorted(names), boxes=table, seed=seed)
  assert places.places_of(text) == expected, text


@pytest.mark.parametrize(
  ("box", "place"),
  [
    ((0.1, 0.1, 0.2, 0.2), ("right", "upper")),
    ((0.7, 0.1, 0.2, 0.2), ("left", "upper")),
    ((0.2, 0.4, 0.1, 0.1), ("right", "mid")),
    ((0.6, 0.6, 0.2, 0.2), ("left", "lower")),
    ((0.2, 0.6, 0.6, 0.2), ("both", "lower")),
    ((0.1, 0.1, 0.3, 0.7), ("right", "")),
    ((0.45, 0.2, 0.1, 0.1), ("", "upper")),
    ((0.1, 0.1, 0.8, 0.8), ("both", "")),
    ((np.nan,) * 4, ("", "")),
    ((0.1, 0.2, np.nan, 0.2), ("", "")),
  ],
)
def test_place_of_a_box(box, place):
  assert prompts.place_of(np.float32(box)) == place


def test_place_of_a_mirrored_box_is_on_the_other_side():
  other = {"right": "left", "left": "right", "both": "both", "": ""}
  for x, y, width, height in np.random.default_rng(0).random((200, 4)):
    side, zone = prompts.place_of((x, y, width, height))
    assert prompts.place_of((1 - x - width, y, width, height)) == (other[side], zone)


def test_prompt_names_the_sides_of_the_patient():
  sides = {phantom_anatomy.LEFT: "left", phantom_anatomy.RIGHT: "right"}
  expected = set()
  for seed in range(8):
    rng = np.random.default_rng(seed)
    patient = phantom_anatomy.sample_patient(rng)
    study = phantom_anatomy.sample_study(rng, patient, findings=("Effusion",))
    (box,) = phantom_render.render(patient, study, size=32).boxes
    place = prompts.place_of((box.x, box.y, box.w, box.h))
    assert place == (sides[study.lesions[0].side], "lower")
    expected.add(place)
  assert len(expected) == 2


def test_prompt_names_the_place():
  for seed in range(30):
    boxes = boxes_of(
      Mass=(0.1, 0.1, 0.2, 0.2),
      Effusion=(0.6, 0.6, 0.2, 0.2),
      Edema=(0.2, 0.4, 0.6, 0.1),
    )
    right = prompts.prompt(["Mass"], boxes=boxes, seed=seed)
    assert re.search(r"right upper (lung )?zone", right)
    assert "left" not in right
    left = prompts.prompt(["Effusion"], boxes=boxes, seed=seed)
    assert re.search(r"left lower (lung )?zone", left)
    both = prompts.prompt(["Edema"], boxes=boxes, seed=seed)
    assert re.search(r"both mid|bilateral mid", both)
    # Central findings have no side; boxes of findings that are absent say nothing.
    heart = boxes_of(Cardiomegaly=(0.4, 0.4, 0.4, 0.3), Mass=(0.1, 0.1, 0.2, 0.2))
    central = prompts.prompt(["Cardiomegaly", "Hernia"], boxes=heart, seed=seed)
    assert not re.search(r"right|left|both|bilateral|zone|mass", central)


def test_prompt_refuses_boxes_of_another_shape():
  with pytest.raises(ValueError, match="boxes"):
    prompts.prompt(["Mass"], boxes=np.zeros((4,)))


def test_phrasings_name_only_their_finding():
  words = prompts.phrasings()
  assert set(words["findings"]) == {*metadata.FINDINGS, *metadata.MORE_FINDINGS}
  for name, finding in words["findings"].items():
    assert set(finding) == {"pattern", "region", "phrases", "one_side", "both_sides"}
    forms = finding["phrases"] + finding["one_side"] + finding["both_sides"]
    assert len(forms) == len(set(forms))
    for phrase in forms:
      assert findings_of(phrase) == (name,)
      # `places_of` parts a text there.
      assert not re.search(r"[,.:]| and ", phrase)
    assert 2 <= len(finding["phrases"]) <= 4
    # A central finding has no side, and every other has one.
    assert bool(finding["region"]) == bool(finding["one_side"])
    assert bool(finding["region"]) == bool(finding["both_sides"])


def test_phrasings_of_other_words_name_no_finding():
  words = prompts.phrasings()
  of_labels = {"templates", "none", "views", "sexes", "zones", "findings"}
  assert set(words) == of_labels | {"without_findings", "without_view"}
  assert set(words["views"]) == {"PA", "AP", "unknown"}
  assert set(words["sexes"]) == {"M", "F", "unknown"}
  assert len(words["templates"]) >= 10

  def slots(text: str) -> set[str]:
    return {slot for _, slot, _, _ in string.Formatter().parse(text) if slot}

  for template in words["templates"]:
    assert slots(template) == {"view", "person", "findings"}
  for template in words["without_findings"]:
    assert slots(template) == {"view", "person"}
  without_view = words["without_view"]
  for name, templates in without_view.items():
    wanted = slots(words[name][0]) - {"view"}
    assert all(slots(template) == wanted for template in templates)
  for finding in words["findings"].values():
    assert not any(slots(phrase) for phrase in finding["phrases"])
    assert all(slots(phrase) == {"place"} for phrase in finding["one_side"])
    for phrase in finding["both_sides"]:
      assert slots(phrase) in ({"places"}, {"bilateral"})
  options = [*words["views"].values(), *words["sexes"].values()]
  options += [*words["zones"].values()]
  regions = {finding["region"] for finding in words["findings"].values()} - {None}
  fixed = [*itertools.chain(*options), *words["none"], *words["templates"], *regions]
  fixed += [*words["without_findings"], *itertools.chain(*without_view.values())]
  assert all(not findings_of(text) for text in fixed)
  assert all(text == text.lower() for text in fixed)


def test_prompt_has_view_age_and_sex():
  for seed in range(60):
    text = prompts.prompt(["Mass"], view="AP", age=61.0, sex="F", seed=seed)
    assert re.search(r"\b(ap|anteroposterior)\b", text)
    assert "61 year old" in text
    assert "woman" in text or "female" in text


def test_prompt_omits_unknown_values():
  for seed in range(60):
    text = prompts.prompt([], view="", seed=seed)
    assert "year" not in text
    assert "None" not in text
    assert "nan" not in text
    assert not re.search(r"frontal|view|projection|[(:,] ?[,)]", text)
    assert not {"man", "woman", "pa", "ap"} & set(text.strip(".").split())


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"view": "LL"}, "view 'LL'; expected AP or PA"),
    ({"sex": "X"}, "sex 'X'; expected F or M"),
    ({"age": 414}, "age 414; expected 0 to 120"),
    ({"age": -1}, "age -1"),
  ],
)
def test_prompt_refuses_impossible_values(given, message):
  with pytest.raises(errors.InputError, match=message):
    prompts.prompt([], **given)


def test_prompt_depends_on_the_seed():
  def texts(seeds):
    return [prompts.prompt(["Edema", "Effusion"], view="PA", seed=s) for s in seeds]

  assert texts(range(20)) == texts(range(20))
  assert len(set(texts(range(60)))) > 40
  by_name = [f"{k:08d}_000" for k in range(30)]
  assert len(set(texts(by_name))) > 20


def test_prompt_uses_the_right_article():
  text = prompts.prompt([], age=82.4, sex="M", seed=3)
  assert "an 82 year old" in text
  assert "a 79 year old" in prompts.prompt([], age=79, sex="M", seed=3)
  for age in range(121):
    article = "an" if age in (8, 11, 18) or 80 <= age < 90 else "a"
    assert re.search(rf"\b{article} {age} year", prompts.prompt([], age=age, seed=3))


def test_texts_are_prompts_of_their_rows():
  ids = np.array(["00000001_000", "00000002_000", "00000003_000"])
  texts = ("Mass|Edema", "No Finding", "Effusion")
  findings = np.stack([labels.parse(text, metadata.FINDINGS) for text in texts])
  boxes = np.full((3, 14, 4), np.nan, np.float32)
  boxes[2] = boxes_of(Effusion=(0.6, 0.6, 0.2, 0.2))
  columns = {
    "views": np.array([0, 1, -1]),
    "ages": np.float32([30, np.nan, 60]),
    "sexes": np.array([1, -1, 0]),
  }
  result = prompts.texts(
    ids, findings, **columns, boxes=boxes, seed=7, vocabulary=metadata.FINDINGS
  )
  assert result == [
    prompts.prompt(
      ["Edema", "Mass"], view="PA", age=30, sex="M", seed="7/00000001_000"
    ),
    prompts.prompt([], view="AP", seed="7/00000002_000"),
    prompts.prompt(
      ["Effusion"], view="", age=60, sex="F", boxes=boxes[2], seed="7/00000003_000"
    ),
  ]
  assert "left lower" in result[2]
  assert result != prompts.texts(
    ids, findings, **columns, boxes=boxes, seed=8, vocabulary=metadata.FINDINGS
  )
  # A row's text does not depend on the rows beside it.
  alone = {name: column[1:2] for name, column in columns.items()}
  assert prompts.texts(
    ids[1:2], findings[1:2], **alone, seed=7, vocabulary=metadata.FINDINGS
  ) == [result[1]]


def test_texts_say_no_view_of_an_unknown_one():
  unknown = np.full(200, -1)
  ids = [str(number) for number in range(200)]
  for caption in (0, 1):
    texts = prompts.texts(
      ids,
      np.zeros((200, 14), np.float32),
      unknown,
      np.full(200, np.nan),
      unknown,
      vocabulary=metadata.FINDINGS,
      caption=caption,
      drop=0.5,
    )
    assert not any(re.search("frontal|view|projection", text) for text in texts)


def test_texts_assert_only_what_is_known():
  rows = {
    "no reported finding": [0, 0, 0],
    "": [0, np.nan, 0],
    "edema": [0, 1, np.nan],
  }
  num, words = 40, prompts.phrasings()
  for said, row in rows.items():
    texts = prompts.texts(
      [f"{number:08d}_000" for number in range(num)],
      np.tile(np.float32(row), (num, 1)),
      *(np.full(num, value) for value in (0, 61.0, 0)),
      vocabulary=("Airspace_Opacity", "Edema", "Fracture"),
    )
    negated = [any(phrase in text for phrase in words["none"]) for text in texts]
    assert negated == [said == "no reported finding"] * num
    assert {findings_of(text) for text in texts} == (
      {("Edema",)} if said == "edema" else {()}
    )
    assert all("woman" in text or "female" in text for text in texts)


def test_phrases_of_no_finding_do_not_say_that_the_chest_is_normal():
  for phrase in prompts.phrasings()["none"]:
    assert not re.search(r"normal|clear|healthy|abnormal", phrase)


@functools.cache
def captions(caption: int, drop: float, num: int = 400) -> list[str]:
  """Captions of images with a left effusion, a PA view, 61 years, a woman."""
  table = np.tile(boxes_of(Effusion=(0.6, 0.6, 0.2, 0.2)), (num, 1, 1))
  return prompts.texts(
    [f"{number:08d}_000" for number in range(num)],
    np.tile(labels.parse("Effusion", metadata.FINDINGS), (num, 1)),
    np.zeros(num, int),
    np.full(num, 61.0),
    np.zeros(num, int),
    table,
    vocabulary=metadata.FINDINGS,
    caption=caption,
    drop=drop,
  )


ATTRIBUTE_WORDS = {
  "findings": "effusion|costophrenic|pleural",
  "sides": "left",
  "view": r"pa\b|posteroanterior",
  "age": "61 year",
  "sex": "woman|female",
}


def test_texts_of_caption_0_say_everything():
  assert captions(0, 0.9) == captions(0, 0.0)
  for text in captions(0, 0.9):
    assert all(re.search(words, text) for words in ATTRIBUTE_WORDS.values()), text


def test_texts_of_other_captions_leave_out_each_attribute_on_its_own():
  said = np.array(
    [
      [bool(re.search(words, text)) for words in ATTRIBUTE_WORDS.values()]
      for text in captions(1, 0.3)
    ]
  )
  for text, findings in zip(captions(1, 0.3), said[:, 0], strict=True):
    assert findings_of(text) == (("Effusion",) if findings else ()), text
  rates = dict(zip(ATTRIBUTE_WORDS, said.mean(axis=0), strict=True))
  # Without findings there is no side either.
  wanted = dict.fromkeys(ATTRIBUTE_WORDS, 0.7) | {"sides": 0.49}
  # Four standard deviations of a share of 400.
  assert rates == pytest.approx(wanted, abs=0.1)
  apart = np.corrcoef(said[:, [0, 2, 3, 4]].T)[np.triu_indices(4, 1)]
  assert np.abs(apart).max() < 0.2
  assert captions(1, 0.3) != captions(2, 0.3)
  whole = captions(1, 0.0)
  assert all(findings_of(text) == ("Effusion",) and "left" in text for text in whole)
  assert sum(a != b for a, b in zip(whole, captions(0, 0.0), strict=True)) > 300


def test_partial_fingerprint_follows_all_phrasings(monkeypatch):
  before = prompts.partial_fingerprint()
  changed = json.loads(json.dumps(prompts.phrasings()))
  changed["without_findings"].append("a {view} film of {person}.")
  monkeypatch.setattr(prompts, "phrasings", lambda: changed)
  prompts.fingerprint.cache_clear()
  assert prompts.partial_fingerprint() != before
  prompts.fingerprint.cache_clear()


def test_fingerprint_follows_phrasings_and_grammar(monkeypatch):
  before = prompts.fingerprint()
  assert re.fullmatch(r"[0-9a-f]{12}", before)
  changed = json.loads(json.dumps(prompts.phrasings()))
  changed["none"].append("nothing wrong")

  def fingerprint() -> str:
    prompts.fingerprint.cache_clear()
    return prompts.fingerprint()

  with monkeypatch.context() as patch:
    patch.setattr(prompts, "phrasings", lambda: changed)
    assert fingerprint() != before
  with monkeypatch.context() as patch:
    patch.setattr(prompts, "place_of", lambda box: ("", ""))
    assert fingerprint() != before
  assert fingerprint() == before


def test_prompt_accepts_spellings_and_refuses_unknown_names():
  text = prompts.prompt(["Infiltrate", "pleural thickening"], seed=1)
  assert findings_of(text) == ("Infiltration", "Pleural_Thickening")
  with pytest.raises(errors.InputError, match="unknown finding 'Fracture'"):
    prompts.prompt(["Fracture"])


def test_findings_of_understands_free_text():
  actual = findings_of("Large right PNEUMOTHORAX and a small nodule")
  assert actual == ("Nodule", "Pneumothorax")
  assert findings_of("massive cardiac silhouette, nodular pattern") == ()
  assert findings_of("Bibasal effusions; two masses") == ("Effusion", "Mass")


def test_prompts_fit_the_usual_text_encoder():
  # CLIP reads 77 tokens, two of them the ends; four findings, the most that is common,
  # must fit. A long word counts as a token for every four letters, which is what rare
  # words take in a vocabulary of general English, and so does each digit and sign.
  rng = np.random.default_rng(0)
  for seed in range(1000):
    low, size = rng.random((14, 2)) * 0.7, rng.random((14, 2)) * 0.5
    text = prompts.prompt(
      rng.choice(metadata.FINDINGS, 4, replace=False).tolist(),
      view=rng.choice(["PA", "AP"]),
      age=88,
      sex="F",
      boxes=np.concatenate([low, size], axis=1),
      seed=seed,
    )
    assert len(text.split()) <= 48
    words = re.findall(r"[a-z]+|[^\sa-z]", text)
    assert sum(1 if len(word) <= 6 else -(-len(word) // 4) for word in words) <= 75
