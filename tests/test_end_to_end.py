"""From a tree to a trained, resumed, sampled and reported run, through the commands."""

import json
import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax.sampling import files as sample_files


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The folder of the one run that all tests here look at."""
  return tmp_path_factory.mktemp("runs") / "small"


# Where clients of the hub, of Kaggle and of clouds look for a user's secret.
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "KAGGLE_KEY", "AWS_SECRET_ACCESS_KEY")
SECRET = "hf_not_a_real_secret_93715"


@pytest.fixture
def trained(workdir, small, run_main, monkeypatch):
  """The run, trained for 20 steps by the command if it is not yet."""
  for name in SECRETS:
    monkeypatch.setenv(name, SECRET)
  if not workdir.is_dir():
    arguments = small.arguments(
      workdir,
      train__num_steps=20,
      train__checkpoint_every=10,
      train__sample_every=10,
      train__validate_every=10,
      train__log_every=5,
    )
    result = run_main("main", *arguments)
    assert result.code == 0, result.err
    assert "finished at step 20" in result.out
    assert SECRET not in result.out + result.err
  return workdir


def test_main_writes_what_scripts_rely_on(trained, small):
  assert {path.name for path in (trained / "checkpoints").iterdir()} == {"10", "20"}
  config = json.loads((trained / "config.json").read_text())
  assert config["data"]["root"] == str(small.root)
  assert config["train"]["num_steps"] == 20
  dataset = json.loads((trained / "dataset.json").read_text())
  assert dataset["kind"] == "phantom images, stand-in elixrc"
  assert dataset["columns"]["elixrc"]["standin"] is True
  assert sum(dataset["num_rows"].values()) == 64
  names = [f"step_{step:07d}.png" for step in (0, 10, 20)]
  assert sorted(path.name for path in (trained / "samples").iterdir()) == names
  events = list(trained.glob("events.out.tfevents.*"))
  assert len(events) == 1


def test_no_secret_of_the_environment_is_written(trained, samples, tmp_path):
  samples(tmp_path, "--num=1", "--steps=1")
  files = [
    path
    for folder in (trained, tmp_path)
    for path in folder.rglob("*")
    if path.is_file()
  ]
  assert len(files) > 20
  for path in files:
    assert SECRET.encode() not in path.read_bytes(), path


def test_main_writes_tensorboard_losses_and_pictures(trained):
  from tensorboard.backend.event_processing import event_accumulator

  events = event_accumulator.EventAccumulator(str(trained))
  events.Reload()
  tensors = events.Tags()["tensors"]
  for tag in ("train/loss", "train/images_per_second", "validation/loss", "samples"):
    assert tag in tensors
  assert [event.step for event in events.Tensors("train/loss")] == [5, 10, 15, 20]
  assert [event.step for event in events.Tensors("validation/loss")] == [10, 20]


def test_main_resumes_when_repeated_and_then_does_nothing(tmp_path, small, run_main):
  arguments = small.arguments(tmp_path, train__num_steps=2, train__checkpoint_every=1)
  first = run_main("main", *arguments)
  assert first.code == 0, first.err
  checkpoints = tmp_path / "checkpoints"
  shutil.rmtree(checkpoints / "2")
  assert "finished at step 2" in run_main("main", *arguments).out
  # From step 1, whose checkpoint is the old one, and then there is nothing to do.
  before = {path.name: path.stat().st_mtime_ns for path in checkpoints.iterdir()}
  assert set(before) == {"1", "2"}
  assert "finished at step 2" in run_main("main", *arguments).out
  after = {path.name: path.stat().st_mtime_ns for path in checkpoints.iterdir()}
  assert after == before


@pytest.fixture
def samples(trained, run_main):
  """Samples the run into a folder: `samples(out, "--num=4") -> samples.json`."""

  def sample(out: pathlib.Path, *arguments: str) -> dict:
    result = run_main("sample", f"--workdir={trained}", f"--out={out}", *arguments)
    assert result.code == 0, result.err
    assert "stand-in elixrc" in result.out
    return json.loads((out / "samples.json").read_text())

  return sample


def _read(path: pathlib.Path) -> np.ndarray:
  with Image.open(path) as picture:
    return np.asarray(picture).astype(int)


def _pixels(out: pathlib.Path, generated: dict) -> np.ndarray:
  return np.stack([_read(out / entry["file"]) for entry in generated["samples"]])


def test_sample_writes_images_grids_and_their_description(samples, tmp_path):
  generated = samples(
    tmp_path,
    *("--num=3", "--steps=3", "--guidance=1.5", "--seed=7"),
    *("--guidance_interval=0.5,3", "--guidance_rescale=0.5", "--sampler=ddim"),
  )
  assert [entry["number"] for entry in generated["samples"]] == [0, 1, 2]
  assert {entry["seed"] for entry in generated["samples"]} == {7}
  assert generated["settings"] == {
    "autoguidance_step": None,
    "checkpoint_step": 20,
    "clip_x0": [],
    "dynamic_threshold": 0.0,
    "ema_length": None,
    "eta": None,
    "evaluations_per_image": 6,
    "guidance": 1.5,
    "guidance_interval": [0.5, 3.0],
    "guidance_rescale": 0.5,
    "num_images": 2,
    "num_steps": 3,
    "sampler": "ddim",
    "sampler_options": "",
    "spacing": "spectrum",
    "times_shift": 1.0,
  }
  images = _pixels(tmp_path, generated)
  assert images.shape == (3, 32, 32)
  first = generated["samples"][0]
  assert first["reference_file"] == f"references/{first['image_id']}.png"
  assert _read(tmp_path / first["reference_file"]).std() > 5
  for name in ("grid.png", "pairs.png"):
    assert min(_read(tmp_path / name).shape) > 128


def test_sample_is_equal_for_equal_seeds_and_any_batch(samples, tmp_path):
  one = samples(tmp_path / "a", "--num=5", "--batch_size=16", "--seed=1")
  two = samples(tmp_path / "b", "--num=5", "--batch_size=16", "--seed=1")
  a, b = _pixels(tmp_path / "a", one), _pixels(tmp_path / "b", two)
  np.testing.assert_array_equal(a, b)
  # Fewer in all and fewer a call: the same first images, to a grey level of rounding.
  few = samples(tmp_path / "c", "--num=2", "--batch_size=1", "--seed=1")
  assert few["samples"][1]["image_id"] == one["samples"][1]["image_id"]
  np.testing.assert_allclose(_pixels(tmp_path / "c", few), a[:2], atol=1)
  other = samples(tmp_path / "d", "--num=5", "--seed=2")
  assert np.abs(_pixels(tmp_path / "d", other) - a).mean() > 5


def test_sample_takes_named_conditions(samples, tmp_path, trained, run_main, small):
  stems = sorted(path.stem for path in small.root.glob("original/*/images/*.png"))
  chosen = [stems[9], stems[3]]
  ids = ",".join([f"{chosen[0]}.png", chosen[1]])
  generated = samples(tmp_path, f"--image_ids={ids}", "--num=4")
  assert [entry["image_id"] for entry in generated["samples"]] == [
    chosen[0],
    chosen[0],
    chosen[1],
    chosen[1],
  ]
  refused = run_main("sample", f"--workdir={trained}", "--image_ids=nobody")
  assert "images nobody" in refused.complaint


def test_sample_guides_away_from_an_earlier_checkpoint(samples, tmp_path):
  generated = {}
  for step in (10, 20):
    flags = ("--num=2", "--guidance=30", f"--autoguidance={step}")
    reported = samples(tmp_path / str(step), *flags)
    assert reported["settings"]["autoguidance_step"] == step
    assert reported["settings"]["evaluations_per_image"] == 4
    generated[step] = _pixels(tmp_path / str(step), reported)
  plain = samples(tmp_path / "plain", "--num=2", "--guidance=1")
  assert plain["settings"]["evaluations_per_image"] == 2
  # What is led away from itself stays where it is.
  np.testing.assert_allclose(generated[20], _pixels(tmp_path / "plain", plain), atol=1)
  assert np.abs(generated[10] - generated[20]).mean() > 1


def test_sample_interpolates_between_conditions(trained, run_main, small, tmp_path):
  stems = sorted(path.stem for path in small.root.glob("original/*/images/*.png"))
  arguments = ["--interpolate", stems[0], f"{stems[9]}.png", f"--out={tmp_path}"]
  result = run_main("sample", f"--workdir={trained}", *arguments, "--num=3")
  assert result.code == 0, result.err
  assert f"3 images from one condition to the other: {tmp_path}/walk.png" in result.out
  height, width = _read(tmp_path / "walk.png").shape
  assert width >= 3 * 128
  assert 128 < height < 256


def test_sample_draws_a_grid_of_settings(trained, run_main, tmp_path):
  axes = ["--grid=guidance=1,2,4", "--grid=seed=0,1"]
  arguments = [f"--workdir={trained}", f"--out={tmp_path}", *axes, "--num=2"]
  result = run_main("sample", *arguments)
  assert result.code == 0, result.err
  assert f"2 conditions along 2 axes: {tmp_path}/sweep.png" in result.out
  assert _read(tmp_path / "sweep.png").shape[0] > 2 * 3 * 128


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--split=tset"], "split 'tset'"),
    (
      ["--checkpoint=11"],
      "checkpoint 11; expected one of the steps 10, 20, best or newest",
    ),
    (
      ["--autoguidance=11"],
      "checkpoint 11; expected one of the steps 10, 20, best or newest",
    ),
    (["--sampler=eular"], "sampler 'eular'; expected one of ddim"),
    (["--num_steps=0"], "num_steps=0; expected 1 or more"),
    (["--guidance=much"], "--guidance=much; expected numbers"),
    (["--guidance=1,2"], "2 scales; expected one number"),
    (["--guidance_interval=1"], "two noise levels"),
    (["--prompt=effusion"], "expected reference, image_ids, unconditional"),
    (["--grid=gudance=1"], "expected NAME=VALUE"),
    (["--interpolate=a"], "two conditions for --interpolate A B"),
    (["--interpolate", "a", "b", "c"], "arguments a b c; expected"),
    (["--interpolate=a", "b", "--grid=seed=1"], "--interpolate with --grid"),
    (["--interpolate=a", "b", "--unconditional"], "--interpolate with --unconditional"),
    (["stray"], "arguments stray"),
    (["--num=0"], "num"),
    (["--stepps=3"], "stepps"),
  ],
)
def test_sample_refuses_impossible_requests(trained, run_main, flags, message):
  assert message in run_main("sample", f"--workdir={trained}", *flags).complaint


def test_report_shows_losses_pictures_and_the_data(trained, run_main, samples):
  samples(trained / "generated" / "20260101-000000_old", "--num=1")
  assert "images of small" in run_main("sample", f"--workdir={trained}", "--num=4").out
  newest = sample_files.newest(trained)
  assert newest.name.endswith("_split-test")
  assert len(list((newest / "images").iterdir())) == 4
  (trained / "mine.txt").write_text("mine")
  result = run_main("report", f"--workdir={trained}")
  assert (trained / "mine.txt").read_text() == "mine"
  assert result.code == 0, result.err
  page = (trained / "report.html").read_text()
  for text in ("stand-in", "Loss", "step 0000020", "own condition recognised"):
    assert text in page
  assert page.count("data:image/png;base64,") == 4
  assert len(_read(trained / "report.png")) > 600


@pytest.mark.parametrize(
  ("folder", "more"),
  [
    ("images", []),
    ("references", ["--grid=seed=0,1"]),
    (".", ["--init=x"]),
    ("images", ["--interpolate", "a", "b"]),
  ],
)
def test_sample_refuses_a_folder_with_files_of_the_user(
  folder, more, trained, run_main, tmp_path
):
  (tmp_path / folder).mkdir(exist_ok=True)
  (tmp_path / folder / "scan.png").write_text("mine")
  arguments = [f"--workdir={trained}", f"--out={tmp_path}", *more]
  complaint = run_main("sample", *arguments).complaint
  assert f"{tmp_path} holds files that this command did not write" in complaint
  assert "scan.png" in complaint
  assert (tmp_path / folder / "scan.png").read_text() == "mine"
  assert [path.name for path in tmp_path.rglob("*.*")] == ["scan.png"]


@pytest.mark.parametrize("name", ["sample", "report"])
def test_sample_refuses_a_folder_without_a_run(name, run_main, tmp_path):
  complaint = run_main(name, f"--workdir={tmp_path / 'none'}").complaint
  assert "has no config.json; expected the folder of a run" in complaint
  assert not (tmp_path / "none").exists()
