"""`evaluation/readers/scores.py` and its main: planted readers get what they earn."""

from collections.abc import Callable
import csv
import json
import pathlib

import numpy as np
import pytest
from sklearn import metrics

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.extras.reader_study import report as reader_report
from cxr_diffusion_jax.extras.reader_study import scores as reader_scores
from cxr_diffusion_jax.extras.reader_study import tables as reader_tables

FINDINGS = ("Edema", "Mass", "No Finding")


@pytest.fixture
def key(tmp_path) -> pathlib.Path:
  """20 real images, 10 of each of two paths, and the first 6 again."""
  sets = ["real", "clip", "real", "elixr"] * 10
  rows = [
    [f"{i:03d}", name, f"id{i}", FINDINGS[i // 4 % 3], ""]
    for i, name in enumerate(sets)
  ]
  rows += [[f"{40 + i:03d}", *rows[i][1:4], rows[i][0]] for i in range(6)]
  path = tmp_path / "key.csv"
  with path.open("w", newline="") as file:
    csv.writer(file).writerows([reader_tables.KEY_COLUMNS, *rows])
  return path


@pytest.fixture
def answer(key, tmp_path) -> Callable[..., pathlib.Path]:
  """Writes a reader's answers: `answer("ann", row -> (verdict, realism, findings))`."""
  with key.open(newline="") as file:
    rows = list(csv.DictReader(file))

  def write(reader: str, answer_fn: Callable) -> pathlib.Path:
    path = tmp_path / f"{reader}.csv"
    table = [(reader, row["image"], *answer_fn(row)) for row in rows]
    with path.open("w", newline="") as file:
      csv.writer(file).writerows([reader_tables.ANSWER_COLUMNS, *table])
    return path

  return write


def perfect(row):
  real = row["set"] == "real"
  return ("real" if real else "synthetic"), (5 if real else 2), row["findings"]


def fooled_by_elixr(row):
  real = row["set"] != "clip"
  return ("real" if real else "synthetic"), (4 if real else 1), "Mass"


def wavering(row):
  """Answers otherwise when an image comes again, and is late in no other way."""
  verdict, realism, findings = perfect(row)
  if row["repeat_of"]:
    verdict = {"real": "synthetic", "synthetic": "real"}[verdict]
  return verdict, realism, findings


def test_score_of_a_perfect_reader(key, answer):
  result = reader_scores.score(key, [answer("ann", perfect)])
  assert result.readers == ("ann",)
  assert result.num_images == {"real": 20, "clip": 10, "elixr": 10}
  assert result.num_repeats == 6
  accuracy = result.find("accuracy", "ann")
  assert (accuracy.value, accuracy.num) == (1, 40)
  assert accuracy.low == pytest.approx(0.025 ** (1 / 40))
  assert result.find("p_value", "ann").value < 1e-9
  assert result.find("repeat_kappa", "ann").value == 1
  assert result.find("realism", "ann", "real").value == 5
  assert result.find("finding_kappa", "ann", "generated", "Edema").value == 1
  assert result.find("finding_f1", "ann", "clip", "macro").value == 1
  # Never asked for: there is nothing that could be seen or missed.
  hernia = result.find("finding_f1", "ann", "generated", "Hernia")
  assert hernia.value is None
  assert hernia.reason == "in none of the images"


def test_score_of_a_path_that_deceives(key, answer):
  result = reader_scores.score(key, [answer("bob", fooled_by_elixr)])
  assert result.find("accuracy").value == 0.75
  assert result.find("specificity", path="real").value == 1
  assert result.find("sensitivity", path="clip").value == 1
  elixr = result.find("sensitivity", path="elixr")
  assert (elixr.value, elixr.low) == (0, 0)
  assert elixr.high == pytest.approx(1 - 0.025 ** (1 / 10))
  assert result.find("balanced_accuracy", path="elixr").value == 0.5
  assert result.find("realism", path="generated").value == 2.5
  # "Mass" for every image is right in the share of Mass, and agrees by chance alone.
  assert result.find("finding_kappa", path="generated", finding="Mass").value == 0


def test_score_of_several_readers(key, answer):
  readers = {"ann": perfect, "bob": fooled_by_elixr, "cy": wavering}
  files = [answer(name, answer_fn) for name, answer_fn in readers.items()]
  result = reader_scores.score(key, files)
  # Repeats do not count twice: who wavers has the accuracy of the first showing.
  assert result.find("accuracy", "cy").value == 1
  assert result.find("repeat_agreement", "cy").value == 0
  assert result.find("repeat_kappa", "cy").value < 0
  assert result.find("accuracy").value == pytest.approx((1 + 0.75 + 1) / 3)
  assert result.find("accuracy").num == 120
  assert result.find("verdict_kappa", "ann and cy").value == 1
  truth = np.tile([0, 1, 0, 1], 10)
  said = np.tile([0, 1, 0, 0], 10)
  wanted = metrics.cohen_kappa_score(truth, said)
  assert result.find("verdict_kappa", "ann and bob").value == pytest.approx(wanted)
  assert 0 < result.find("fleiss_kappa").value < 1
  assert result.find("realism_kappa", "ann and bob") is not None


def test_score_of_guesses_is_chance(key, answer):
  rng = np.random.default_rng(3)
  guess = answer("dee", lambda row: (rng.choice(["real", "synthetic"]), 3, "Mass"))
  result = reader_scores.score(key, [guess])
  assert result.find("p_value").value > 0.05
  accuracy = result.find("accuracy")
  assert accuracy.low < 0.5 < accuracy.high
  same = reader_scores.score(key, [answer("eve", lambda row: ("synthetic", 3, "Mass"))])
  assert same.find("repeat_kappa").value is None
  assert same.find("p_value").value == 1
  assert "undefined: all answers are alike" in reader_report.text(same)


def test_score_of_a_partial_sheet(key, answer):
  """Who answers no question on findings or realism has no scores for them."""
  result = reader_scores.score(key, [answer("ann", lambda row: ("real", "", ""))])
  assert {score.metric for score in result.scores}.isdisjoint(
    {"realism", "finding_kappa", "finding_f1"}
  )
  assert "Findings seen" not in reader_report.text(result)


@pytest.mark.parametrize(
  ("old", "new", "words"),
  [
    ("ann,003,synthetic,2,Edema\r\n", "", "1 images are missing, such as 003"),
    ("ann,003,", "ann,x03,", "1 images are of another study, such as x03"),
    ("ann,003,", "ann,002,", "1 images are there more than once, such as 002"),
    ("ann,003,synthetic,", "ann,003,,", "1 images have no verdict, such as 003"),
    ("ann,003,synthetic,", "ann,003,fake,", "another verdict, such as 003 .'fake'"),
    ("ann,003,synthetic,2,", "ann,003,synthetic,6,", "'6'.*; expected 1 to 5"),
    ("ann,003,synthetic,2,", "ann,003,synthetic,,", "1 images have no realism"),
    ("synthetic,2,Edema", "synthetic,2,Odema", "have another findings.*Odema"),
    ("ann,003,", "bob,003,", "2 readers, ann and bob"),
    ("verdict", "answer", "lacks the column 'verdict'"),
  ],
)
def test_answers_that_cannot_be_scored_are_refused(old, new, words, key, answer):
  path = answer("ann", perfect)
  text = path.read_bytes().decode()
  assert old in text
  path.write_bytes(text.replace(old, new).encode())
  with pytest.raises(errors.InputError, match=f"^[^\n]*ann.csv[^\n]*{words}"):
    reader_scores.score(key, [path])


def test_score_refuses_two_files_of_one_reader(key, answer):
  path = answer("ann", perfect)
  with pytest.raises(errors.InputError, match="2 files of the reader 'ann'"):
    reader_scores.score(key, [path, path])


def test_scores_command_prints_tables_and_writes_figures(key, answer, run_main):
  files = [answer("ann", perfect), answer("bob", fooled_by_elixr)]
  ended = run_main(
    "score_readers", f"--key={key}", f"--answers={','.join(map(str, files))}"
  )
  assert ended.code == 0, ended.err
  assert "2 readers; images: 20 real, 10 clip, 10 elixr; 6 of them" in ended.out
  for title in ("Turing test", "Images, all readers", "Agreement", "Findings seen"):
    assert f"### {title}" in ended.out
  for line in ended.out.splitlines():
    assert "nan" not in line
  stored = json.loads((key.parent / "scores.json").read_text())
  assert stored["schema"] == reader_scores.SCHEMA
  values = {(x["metric"], x["reader"], x["path"]): x["value"] for x in stored["scores"]}
  assert values["accuracy", "ann", "all"] == 1
  assert len(metadata.FINDINGS) < len(stored["scores"])


def test_scores_command_refuses_in_one_line(key, answer, run_main, tmp_path):
  path = answer("ann", perfect)
  none = tmp_path / "none.csv"
  assert (
    str(none)
    in run_main("score_readers", f"--key={none}", f"--answers={path}").complaint
  )
  assert (
    str(none)
    in run_main("score_readers", f"--key={key}", f"--answers={path},{none}").complaint
  )
  assert "--answers" in run_main("score_readers", f"--key={key}").complaint
