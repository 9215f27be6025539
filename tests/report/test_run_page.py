"""The page of a run: its recognition rate in closed form, and handmade folders."""

import json
import pathlib

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.report import run_page

CONFIG = {"data": {"root": "tree", "image_size": 8}}
COLUMN = {"encoder": "stand-in <of> nothing", "standin": True, "fingerprint": "f"}
DATASET = {
  "kind": "phantom images, stand-in elixrc",
  "fingerprint": "f",
  "num_rows": {"train": 1234},
  "statistics": {},
  "columns": {"elixrc": COLUMN},
}


@pytest.fixture
def references() -> np.ndarray:
  """[4 8 8], no two alike."""
  return np.random.default_rng(0).normal(size=(4, 8, 8))


def test_recognition_rate_of_the_references_is_one(references):
  own = np.arange(4)
  assert run_page.recognition_rate(references, references, own) == 1.0
  # Similarity does not depend on brightness or contrast.
  assert run_page.recognition_rate(3 * references - 40, references, own) == 1.0


def test_recognition_rate_with_wrong_owners_is_zero(references):
  own = (np.arange(4) + 1) % 4
  assert run_page.recognition_rate(references, references, own) == 0.0


def test_recognition_rate_of_negatives_is_zero(references):
  two = references[:2]
  assert run_page.recognition_rate(-two, two, np.array([0, 1])) == 0.0


def test_recognition_rate_is_a_share(references):
  images = references[[0, 1, 2, 3, 0, 1, 2, 3]]
  own = np.array([0, 1, 2, 3, 1, 2, 3, 3])
  assert run_page.recognition_rate(images, references, own) == 5 / 8


def test_recognition_rate_of_blank_images_is_finite(references):
  rate = run_page.recognition_rate(np.ones((2, 8, 8)), references, np.array([0, 1]))
  assert rate in (0.0, 0.5)


def test_write_refuses_a_run_without_samples(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(CONFIG))
  (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
  with pytest.raises(errors.InputError, match="no pictures in"):
    run_page.write(tmp_path)


def test_write_names_a_config_that_is_not_json(tmp_path):
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(errors.InputError, match=r"config.json is not readable JSON"):
    run_page.write(tmp_path)


@pytest.fixture
def workdir(tmp_path, references) -> pathlib.Path:
  """The folder of a run, as far as a report reads it."""
  workdir = tmp_path / "a <run>"
  (workdir / "samples").mkdir(parents=True)
  (workdir / "config.json").write_text(json.dumps(CONFIG))
  (workdir / "dataset.json").write_text(json.dumps(DATASET))
  for step in (0, 10, 20, 30):
    _save(references[0], workdir / "samples" / f"step_{step:07d}.png")
  return workdir


def _save(image: np.ndarray, path: pathlib.Path) -> None:
  Image.fromarray(np.uint8(np.clip(128 + 40 * image, 0, 255))).save(path)


def _generate(workdir: pathlib.Path, images: np.ndarray, entries: list[dict]) -> None:
  """Puts images into `generated`, as `sample` does."""
  folder = workdir / "generated"
  for name in ("images", "references"):
    (folder / name).mkdir(parents=True)
  for row, (image, entry) in enumerate(zip(images, entries, strict=True)):
    entry["file"] = f"images/{row}.png"
    _save(image, folder / entry["file"])
  (folder / "samples.json").write_text(json.dumps({"samples": entries}))
  _save(images[0], folder / "pairs.png")


def test_run_page_shows_facts_losses_and_samples(workdir):
  page = run_page.write(workdir).read_text()
  for text in ("a &lt;run&gt;", "1,234", "stand-in &lt;of&gt; nothing", "data.root"):
    assert text in page
  assert "<run>" not in page
  assert "own condition recognised" not in page
  # The curves, and of the steps the first, an early one and the last.
  assert page.count("data:image/png;base64,") == 4
  with Image.open(workdir / "report.png") as picture:
    assert picture.size[0] > 600


def test_run_page_has_the_recognition_rate_of_generated_images(workdir, references):
  entries = [
    {"reference_file": f"references/{name}.png"} for name in ("a", "b", "a", "c")
  ]
  # The third is of a, and looks like c.
  _generate(workdir, references[[0, 1, 2, 2]], entries)
  for name, image in zip("abc", references, strict=False):
    _save(image, workdir / "generated" / "references" / f"{name}.png")
  page = run_page.write(workdir).read_text()
  assert "75% of 4 images by pixel correlation among 3 conditions (chance 33%)" in page
  assert page.count("data:image/png;base64,") == 5


def test_run_page_has_no_rate_without_references(workdir, references):
  _generate(workdir, references[:2], [{"prompt": "a"}, {"prompt": "b"}])
  page = run_page.write(workdir).read_text()
  assert "own condition recognised" not in page
  assert "Condition and generated" in page


def test_run_page_shows_the_newest_generated_folder(workdir, references):
  _generate(workdir, references[:1], [{"prompt": "a"}])
  (workdir / "generated").rename(workdir / "first")
  (workdir / "generated").mkdir()
  (workdir / "first").rename(workdir / "generated" / "20260101-1_a")
  page = run_page.write(workdir).read_text()
  assert "Condition and generated" in page


def test_run_page_of_an_autoencoder_shows_its_reconstruction(workdir):
  figures = {"psnr": 31.23456, "num_images": 16, "data": "<b>"}
  (workdir / "autoencoder.json").write_text(json.dumps(figures))
  page = run_page.write(workdir).read_text()
  assert "reconstruction: psnr</dt><dd>31.23<" in page
  assert "&lt;b&gt;" in page
  assert "codec alone" not in page


def test_loss_picture_draws_every_curve():
  one = {"validation/loss": ([1, 2], [0.5, 0.25])}
  pictures = [
    np.asarray(run_page.loss_picture(curves).convert("RGB"), np.int32)
    for curves in ({}, one, one | {"train/loss": ([1, 2], [0.7, 0.3])})
  ]
  assert {picture.shape for picture in pictures} == {(352, 880, 3)}
  assert np.abs(pictures[0] - pictures[1]).max() > 100
  assert np.abs(pictures[1] - pictures[2]).max() > 100
