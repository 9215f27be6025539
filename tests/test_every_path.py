"""Every path's recipe, from phantoms to a user's words: trained, resumed, sampled.

The stand-in CLIP of a few steps is trained once; what is checked here is that all of it
goes together, not that it is good: networks have a layer or two, images 32 pixels.
"""

import json
import pathlib

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax.conditioning import base
from tests.prompt_reader import findings_of

# What a user may give to each path, two conditions each.
GIVEN = {
  "clip_text": [
    "--prompt=a chest x-ray with pleural effusion",
    "--findings=Cardiomegaly,Edema",
    "--age=63",
    "--sex=F",
    "--negative_prompt=pneumothorax",
    "--guidance=2",
  ],
  "clip_vision": ["--reference={0}", "--reference={1}"],
  "elixr_b": ["--prompt=effusion", "--prompt=no finding"],
  "elixr_bc": ["--prompt=effusion", "--reference={0}", "--reference={1}"],
  "elixr_c": ["--reference={0}", "--reference={1}"],
  "findings": ["--findings=Effusion,Mass", "--findings=No Finding", "--view=AP"],
}

UNET = {
  "model.block_channels": (16,),
  "model.attention": (True,),
  "model.num_heads": 2,
  "model.context_width": 16,
  "model.norm_groups": 4,
}

# A DiT compiles in half the time. UNets of labels and of ELIXR-C are trained in
# `training/test_condition_effect.py` and `test_end_to_end.py`.
DIT = {"model.depth": 1, "model.width": 32, "model.num_heads": 2}

# Features are aligned with a column that the path does not read.
ALIGNED = {"repa.weight": 0.5, "repa.projector_width": 8}
MORE = {"findings": UNET | ALIGNED}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Holds the tree of 64 phantoms, its records and the runs."""
  return tmp_path_factory.mktemp("paths")


@pytest.fixture
def train(place, repository, run_main):
  """Trains a path to a step: `train("elixr_c", 4)`."""

  def run(path: str, num_steps: int) -> str:
    size = "tiny" if path in MORE else "dit_tiny"
    values = {
      "data.root": place / "tree",
      "data.records_dir": place / "records",
      "data.phantom_images": 64,
      "data.image_size": 32,
      "data.standin_steps": 2,
      # Runs of any length are one program then, compiled once.
      "optimizer.schedule": "constant",
      "optimizer.warmup_steps": 2,
      "train.num_steps": num_steps,
      "train.batch_size": 4,
      "train.validation_batches": 1,
      "train.log_every": 2,
      "train.validate_every": 100,
      "train.checkpoint_every": 2,
      "train.sample_every": 0,
      "parallel.num_devices": 1,
      **MORE.get(path, DIT),
    }
    result = run_main(
      "main",
      f"--config={repository}/configs/phantom.py:{path},{size}",
      f"--workdir={place / path}",
      *(f"--config.{name}={value}" for name, value in values.items()),
    )
    assert result.code == 0, result.err
    return result.out

  return run


@pytest.fixture
def sample(place, run_main):
  """Samples a path: `sample("elixr_c", "--reference=...") -> samples.json`."""

  def run(path: str, *arguments: str) -> dict:
    out = place / path / "generated"
    result = run_main(
      "sample", f"--workdir={place / path}", f"--out={out}", "--steps=2", *arguments
    )
    assert result.code == 0, result.err
    return json.loads((out / "samples.json").read_text())

  return run


# The path with both kinds of streams; more is in `training/test_loop.py`.
RESUMED = "elixr_bc"


def test_every_path_is_trained_but_for_one_of_the_same_network():
  # The stand-in of a BERT is the text half of the stand-in CLIP, which `clip_text`
  # reads; see `encoders/columns/test_bert.py`.
  assert {*GIVEN, "bert_text"} == {*base.names()}


@pytest.mark.parametrize("path", GIVEN)
def test_every_path_trains_resumes_and_samples(path, train, sample, place):
  assert "finished at step 2;" in train(path, 2)
  if path == RESUMED:
    before = (place / path / "checkpoints" / "2").stat().st_mtime_ns
    assert "finished at step 4;" in train(path, 4)
    assert (place / path / "checkpoints" / "2").stat().st_mtime_ns == before
  # The encoder is nowhere in what is trained and saved.
  parameters = (place / path / "parameters.txt").read_text()
  assert "null_token" in parameters
  assert "text_model" not in parameters
  assert "vision_model" not in parameters
  dataset = json.loads((place / path / "dataset.json").read_text())
  assert all(column["standin"] for column in dataset["columns"].values())
  assert list(dataset.get("targets", {})) == ["elixrc"] * (path == "findings")
  images = sorted((place / "tree").glob("original/*/images/*.png"))
  given = [text.format(*images) for text in GIVEN[path]]
  generated = sample(path, *given)["samples"]
  assert len(generated) == 4
  pixels = [_read(place / path / "generated" / entry["file"]) for entry in generated]
  assert {image.shape for image in pixels} == {(32, 32)}
  assert np.abs(pixels[0] - pixels[1]).mean() > 1
  if path == "clip_text":
    assert generated[0]["prompt"] == "a chest x-ray with pleural effusion"
    assert findings_of(generated[-1]["prompt"]) == ("Cardiomegaly", "Edema")
    assert "63 year old" in generated[-1]["prompt"]
  # Not to guide, which is the default then, is a program of its own: once is enough.
  as_before = [] if path == "findings" else ["--guidance=1.5"]
  generated = sample(path, "--unconditional", "--num=4", *as_before)
  assert generated["samples"][0]["unconditional"] is True
  assert generated["settings"]["guidance"] == (1 if path == "findings" else 1.5)


def _read(path: pathlib.Path) -> np.ndarray:
  with Image.open(path) as picture:
    return np.asarray(picture).astype(int)
