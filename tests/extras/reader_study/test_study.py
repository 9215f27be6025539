"""`evaluation/readers/study.py`: a sheet that tells nothing, its key apart from it."""

import csv
import pathlib
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.extras.reader_study import study as reader_study
from cxr_diffusion_jax.extras.reader_study import tables as reader_tables


def images_of(name: str, num: int, size: int = 8, first: int = 0) -> ImageSet:
  rng = np.random.default_rng([len(name), num])
  findings = np.zeros((num, len(metadata.FINDINGS)), np.uint8)
  findings[np.arange(num), np.arange(num) % 14] = np.arange(num) % 3 > 0
  return ImageSet(
    name=name,
    images=rng.integers(0, 255, (num, size, size, 1), np.uint8),
    ids=np.array([f"id{first + i:04d}" for i in range(num)]),
    labels={"findings": findings},
    vocabulary=metadata.FINDINGS,
  )


REAL = images_of("real", 60)
SETS = {"clip": images_of("a", 20), "elixr": images_of("ab", 20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """A study of 6 images of each of two paths and 12 real ones, 4 shown twice."""
  folder = tmp_path_factory.mktemp("study")
  page = reader_study.write(REAL, SETS, folder, num_per_set=6)
  assert page == folder / "sheet" / "sheet.html"
  return folder


@pytest.fixture(scope="module")
def key(folder) -> reader_tables.StudyKey:
  return reader_tables.read_key(folder / "key.csv")


def test_study_shows_half_real_images_and_repeats_a_few(key):
  first = key.repeat_of < 0
  sets = np.array(key.sets)
  counts = {name: int((sets[first] == name).sum()) for name in set(key.sets)}
  assert counts == {"real": 12, "clip": 6, "elixr": 6}
  assert (~first).sum() == 4
  for row in np.flatnonzero(~first):
    assert row - key.repeat_of[row] > 24 // 6
    assert key.ids[row] == key.ids[key.repeat_of[row]]


def test_study_key_names_each_image(folder, key):
  by_set = {"real": REAL, **SETS}
  for i, name in enumerate(key.images):
    images = by_set[key.sets[i]]
    row = images.ids.tolist().index(key.ids[i])
    with Image.open(folder / "sheet" / "images" / f"{name}.png") as shown:
      np.testing.assert_array_equal(np.asarray(shown), images.images[row][..., 0])
    np.testing.assert_array_equal(key.findings[i], images.labels["findings"][row])


def test_study_sheet_reveals_nothing(folder, key):
  """No metadata, one encoding, names and order that say nothing, no key."""
  names = {path.name for path in (folder / "sheet").rglob("*")}
  shown = {f"{name}.png" for name in key.images}
  assert names == {"images", "sheet.html", "answers.csv"} | shown
  heads = set()
  for name in shown:
    content = (folder / "sheet" / "images" / name).read_bytes()
    # Header, pixels, end: each chunk's name once, none besides.
    assert [content.count(x) for x in (b"IHDR", b"IDAT", b"IEND")] == [1, 1, 1]
    assert not any(x in content for x in (b"tEXt", b"tIME", b"pHYs", b"eXIf"))
    heads.add(content[:33])
  assert len(heads) == 1
  text = (folder / "sheet" / "sheet.html").read_text()
  text += (folder / "sheet" / "answers.csv").read_text()
  assert not any(image_id in text for image_id in key.ids)
  assert not any(path in text for path in SETS)
  # Not all real ones first.
  real = np.array(key.sets) == "real"
  assert np.abs(np.diff(real.astype(int))).sum() > 2


def test_study_shows_the_same_conditions_for_all_paths(key):
  first = key.repeat_of < 0
  ids = {
    name: {key.ids[i] for i in np.flatnonzero(first) if key.sets[i] == name}
    for name in ("real", "clip", "elixr")
  }
  assert ids["clip"] == ids["elixr"]
  assert not ids["real"] & ids["clip"]


def test_write_is_repeatable_and_keeps_answers(folder):
  before = (folder / "key.csv").read_bytes()
  answers = folder / "sheet" / "answers.csv"
  template = answers.read_text()
  answers.write_text("filled in")
  reader_study.write(REAL, SETS, folder, num_per_set=6)
  assert (folder / "key.csv").read_bytes() == before
  assert answers.read_text() == "filled in"
  answers.write_text(template)


def test_write_sets_a_former_study_aside(tmp_path):
  reader_study.write(REAL, SETS, tmp_path, num_per_set=2)
  former = (tmp_path / "key.csv").read_bytes()
  (tmp_path / "sheet" / "answers.csv").write_text("filled in")
  reader_study.write(REAL, SETS, tmp_path, num_per_set=2, seed=1)
  assert (tmp_path / "key.csv").read_bytes() != former
  (kept,) = tmp_path.glob("key_*.csv")
  assert kept.read_bytes() == former
  (answers,) = tmp_path.glob("sheet_*/answers.csv")
  assert answers.read_text() == "filled in"
  shown = list((tmp_path / "sheet" / "images").iterdir())
  assert len(shown) == len(reader_tables.read_key(tmp_path / "key.csv").images)


def test_write_keeps_all_answers_and_files_of_the_user(tmp_path):
  (tmp_path / "mine.txt").write_text("mine")
  for seed in (0, 1, 0, 1, 0):
    reader_study.write(REAL, SETS, tmp_path, num_per_set=2, seed=seed)
    (tmp_path / "sheet" / "answers.csv").write_text(f"filled in, {seed}")
  answers = [path.read_text() for path in tmp_path.glob("sheet*/answers.csv")]
  assert sorted(answers) == ["filled in, 0"] * 3 + ["filled in, 1"] * 2
  assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"num_per_set": 21}, "60 images of real .* 84|20 images of clip .* 21 or more"),
    ({"num_per_set": 0}, "1 or more of each"),
    ({"sets": {}}, "0 paths"),
    ({"sets": {"real": REAL}}, "a path named 'real'"),
    ({"sets": {"x": images_of("x", 9, size=16)}}, "x are 16x16, real ones 8x8"),
  ],
)
def test_write_refuses_impossible_studies(changes, words, tmp_path):
  arguments = {"sets": SETS, "num_per_set": 6, **changes}
  sets = arguments.pop("sets")
  with pytest.raises(errors.InputError, match=words):
    reader_study.write(REAL, sets, tmp_path / "study", **arguments)
  assert not (tmp_path / "study").exists()


def test_write_accepts_images_without_labels(tmp_path):
  plain = ImageSet(name="x", images=REAL.images[:9], ids=REAL.ids[:9])
  reader_study.write(REAL, {"x": plain}, tmp_path, num_per_set=3)
  key = reader_tables.read_key(tmp_path / "key.csv")
  np.testing.assert_array_equal(key.known, np.array(key.sets) == "real")


def test_answer_columns_are_those_of_the_template(folder, key):
  with (folder / "sheet" / "answers.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["image"] for row in rows] == key.images
  assert set(rows[0]) == set(reader_tables.ANSWER_COLUMNS)


def test_read_key_refuses_other_files(tmp_path):
  path = tmp_path / "key.csv"
  with pytest.raises(errors.InputError, match="cannot read"):
    reader_tables.read_key(path)
  path.write_text("image,set\na,b\n")
  with pytest.raises(errors.InputError, match="lacks the column 'id' and 'findings'"):
    reader_tables.read_key(path)
  path.write_text("image,set,id,findings,repeat_of\na,real,b,,\n")
  with pytest.raises(errors.InputError, match="1 real of 1 images"):
    reader_tables.read_key(path)


@pytest.mark.parametrize(("num_real", "shown"), [(60, 10), (9, 4), (1, 0)])
def test_study_of_a_comparison_shows_as_many_images_as_there_are(
  tmp_path, num_real, shown
):
  paths = [
    SimpleNamespace(name=name, generated=images) for name, images in SETS.items()
  ]
  compared = SimpleNamespace(reference=images_of("real", num_real), paths=paths)
  reader_study.of_comparison(compared, tmp_path, 10)
  key = tmp_path / "reader_study" / "key.csv"
  assert key.exists() == bool(shown)
  if shown:
    sets = reader_tables.read_key(key).sets
    assert {name: len({*key_ids(key, name)}) for name in SETS} == dict.fromkeys(
      SETS, shown
    )
    assert "real" in sets


def key_ids(path: pathlib.Path, name: str) -> list[str]:
  key = reader_tables.read_key(path)
  return [one for one, of_set in zip(key.ids, key.sets, strict=True) if of_set == name]
