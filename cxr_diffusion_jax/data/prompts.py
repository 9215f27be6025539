"""Sentences that describe a chest X-ray by its labels.

findings, boxes, view, age, sex --seed--> one of many phrasings
  caption 0 says all of it, the others leave out attributes at random

The phrasings are data, `prompt_templates.json`. Every phrase there names its finding in
a way that no other finding's phrases contain, and nothing is negated but all findings
at once, so the label set can be read back exactly. That is said of rows whose findings
are all known to be absent, in words that a report-mined `No Finding` supports: none of
the labels was found, not that the chest is normal.
"""

from collections.abc import Callable, Sequence
import functools
import hashlib
import json
import pathlib
import re

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.data.sources.nih import metadata

Choose = Callable[[Sequence[str]], str]

# What a caption may leave out.
ATTRIBUTES = ("findings", "sides", "view", "age", "sex")


@functools.cache
def phrasings() -> dict:
  """The words of prompts, as `prompt_templates.json` has them; not to be changed.

  Returns:
    `templates`: with {view}, {person} and {findings}; `without_findings`: templates of
    prompts that leave findings out; `without_view`: both lists for prompts that leave
    the view out; `none`: phrases of no finding; `views`, `sexes`: code or `unknown` ->
    words; `zones`: of a lung -> words;
    `findings`: name -> `pattern` (what its phrases contain and no other's do),
    `region` (null: central, has no side), `phrases`, `one_side` (with {place}, such as
    `right upper zone`) and `both_sides` (with {places}, such as `both upper zones`, or
    {bilateral}). `a` before a vowel becomes `an`, so no word such as `unilateral`.
  """
  path = pathlib.Path(__file__).with_name("prompt_templates.json")
  return json.loads(path.read_text(encoding="utf-8"))


def prompt(
  findings: Sequence[str] | None,
  *,
  vocabulary: Sequence[str] | None = None,
  view: str | None = None,
  age: float | None = None,
  sex: str | None = None,
  boxes: np.ndarray | None = None,
  seed: int | str = 0,
) -> str:
  """One text in lower case, about 45 words at most where findings are four.

  Args:
    findings: names of the vocabulary in any spelling; empty for none; None to say
      nothing of findings.
    vocabulary: names of the k findings; None for NIH's.
    view: 'PA', 'AP', None for either of them, '' to say nothing of the view.
    sex: 'M', 'F' or None for unknown.
    boxes: [k 4] (x, y, width, height) as fractions of the image, nan where there is
      none; they give the side and the zone of findings. Boxes of other findings are
      ignored.
    seed: chooses the phrasing; an image's name makes a good one.

  Raises:
    InputError: an unknown finding, view or sex, or an impossible age.
  """
  rng = _rng(seed)

  def choose(options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]

  words = phrasings()
  vocabulary = metadata.FINDINGS if vocabulary is None else vocabulary
  if boxes is None:
    boxes = np.full((len(vocabulary), 4), np.nan)
  if np.shape(boxes) != (len(vocabulary), 4):
    raise ValueError(f"boxes {np.shape(boxes)}, expected ({len(vocabulary)}, 4)")
  indices = sorted({labels.finding_index(name, vocabulary) for name in findings or ()})
  phrases = [
    _phrase(vocabulary[int(index)], boxes[int(index)], choose)
    for index in rng.permutation(indices).astype(int)
  ]
  forms = words["without_view"] if view == "" else words
  template = choose(forms["without_findings" if findings is None else "templates"])
  text = template.format(
    view=view != "" and choose(words["views"][_code("view", view, words["views"])]),
    person=_person(age, choose(words["sexes"][_code("sex", sex, words["sexes"])])),
    findings=_enumerate(phrases or [choose(words["none"])]),
  )
  # Ages that begin with a vowel's sound: 8, 11, 18, 80 to 89.
  return re.sub(r"\ba (?=[aeiou]|8|1[18] )", "an ", text)


def texts(
  ids: Sequence[str] | np.ndarray,
  findings: np.ndarray,
  views: np.ndarray,
  ages: np.ndarray,
  sexes: np.ndarray,
  boxes: np.ndarray | None = None,
  *,
  vocabulary: Sequence[str],
  seed: int | str = 0,
  caption: int = 0,
  drop: float = 0.0,
) -> list[str]:
  """A prompt for each of n images, in the phrasing that its id and `seed` choose.

  Arrays are as in `Records.fields`; boxes [n k 4] as of `prompt`. A text depends on
  its row alone, and states the findings that are present; without one it says that
  there is none if all are known to be absent, and else nothing of findings. Of an
  unknown view it says nothing. Captions other than 0 are in other phrasings, and each
  leaves out each of `ATTRIBUTES` with probability `drop`; a known view is then
  frontal.
  """
  result = []
  for number, (name, row, view, age, sex) in enumerate(
    zip(ids, findings, views, ages, sexes, strict=True)
  ):
    row_seed = f"{seed}/{name}" + (f"/{caption}" if caption else "")
    kept = _kept(row_seed, drop if caption else 0.0)
    projection = {0: "PA", 1: "AP"}.get(int(view), "")
    result.append(
      prompt(
        labels.stated(row, vocabulary) if "findings" in kept else None,
        vocabulary=vocabulary,
        view=projection if "view" in kept or not projection else None,
        age=float(age) if "age" in kept else None,
        sex={0: "F", 1: "M"}.get(int(sex)) if "sex" in kept else None,
        boxes=boxes[number] if boxes is not None and "sides" in kept else None,
        seed=row_seed,
      )
    )
  return result


def place_of(box: np.ndarray) -> tuple[str, str]:
  """Side and zone of a finding's box on a frontal X-ray.

  The patient faces the viewer: the image's left half is the patient's right. The lungs
  reach from about 0.15 to 0.75 of the height and begin some 0.1 from the midline.

  Args:
    box: [4] (x, y, width, height) in fractions of the image; nan where there is none.

  Returns:
    Side: `right`, `left`; `both` for a box that reaches into both lungs (such as one
    around several lesions); `` near the midline or without a box. Zone: `upper`, `mid`,
    `lower`; `` for a box taller than a zone and a half, or none.
  """
  x, y, width, height = (float(value) for value in box)
  # All but one comparison is false with nan.
  if not x + y + width + height < np.inf:
    return "", ""
  centre, middle = x + width / 2, y + height / 2
  if x < 0.35 and x + width > 0.65:
    side = "both"
  elif abs(centre - 0.5) < 0.03:
    side = ""
  else:
    side = "right" if centre < 0.5 else "left"
  if height > 0.45:
    return side, ""
  return side, "upper" if middle < 0.37 else "mid" if middle < 0.55 else "lower"


@functools.cache
def fingerprint() -> str:
  """12 hex digits that change when the prompt of any row of a known view may change.

  They hash the phrasings and some hundred prompts, so a change of this module's
  grammar or of numpy's choices shows as well.
  """
  words = {name: of for name, of in phrasings().items() if name != "without_view"}
  digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
  rng, vocabulary = np.random.default_rng(0), metadata.FINDINGS
  for seed in range(200):
    low, size = rng.random((14, 2)) * 0.7, rng.random((14, 2)) * 0.6
    boxes = np.concatenate([low, size], axis=1)
    boxes[rng.random(14) < 0.5] = np.nan
    text = prompt(
      labels.names_of(rng.random(14) < rng.choice([0, 0.2, 0.5]), vocabulary),
      view=(None, "PA", "AP")[seed % 3],
      age=(None, 8.0, 11.0, 18.4, 63.0, 80.0)[seed % 6],
      sex=(None, "F", "M")[seed // 2 % 3],
      boxes=boxes,
      seed=seed,
    )
    digest.update(text.encode())
  return digest.hexdigest()[:12]


def fingerprint_without_view() -> str:
  """12 hex digits that change when the prompt of a row of unknown view may change."""
  digest = hashlib.sha256(fingerprint().encode())
  digest.update(json.dumps(phrasings()["without_view"], sort_keys=True).encode())
  digest.update("".join(prompt((), view="", seed=seed) for seed in range(20)).encode())
  return digest.hexdigest()[:12]


def partial_fingerprint() -> str:
  """12 hex digits that change when a caption that leaves something out may change."""
  digest = hashlib.sha256(fingerprint().encode())
  digest.update(repr([sorted(_kept(seed, 0.5)) for seed in range(20)]).encode())
  return digest.hexdigest()[:12]


def _rng(seed: int | str) -> np.random.Generator:
  digest = hashlib.sha256(repr(seed).encode()).digest()
  return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _kept(seed: int | str, drop: float) -> set[str]:
  """The attributes that a caption says."""
  left_out = _rng(f"left out of {seed}").random(len(ATTRIBUTES)) < drop
  return {name for name, out in zip(ATTRIBUTES, left_out, strict=True) if not out}


def _phrase(name: str, box: np.ndarray, choose: Choose) -> str:
  words = phrasings()["findings"].get(name)
  if words is None:
    return name.replace("_", " ").casefold()
  side, zone = place_of(box)
  if words["region"] is None or not (side or zone):
    return choose(words["phrases"])
  where = choose(phrasings()["zones"][zone]) if zone else words["region"]
  if side == "both":
    bilateral = f"bilateral {where}" if zone else "bilateral"
    return choose(words["both_sides"]).format(
      places=f"both {where}s", bilateral=bilateral
    )
  return choose(words["one_side"]).format(place=f"{side} {where}".strip())


def _code(name: str, value: str | None, known: dict[str, list[str]]) -> str:
  code = "unknown" if value is None else value
  if code not in known:
    codes = " or ".join(sorted(set(known) - {"unknown"}))
    raise errors.InputError(f"{name} {value!r}", codes)
  return code


def _person(age: float | None, noun: str) -> str:
  if age is None or np.isnan(age):
    return f"a {noun}"
  if not 0 <= age <= 120:
    raise errors.InputError(f"age {age:g}", "0 to 120 years")
  return f"a {round(age)} year old {noun}"


def _enumerate(phrases: Sequence[str]) -> str:
  if len(phrases) == 1:
    return phrases[0]
  return f"{', '.join(phrases[:-1])} and {phrases[-1]}"
