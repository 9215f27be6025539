"""Runs are compared on equal terms, nothing is made twice, what differs is said."""

import dataclasses
import json
import pathlib
import types as python_types

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation import comparison, comparison_report, sampling
from cxr_diffusion_jax.training import checkpoint, run_files
from cxr_diffusion_jax.training import state as state_lib


def _save(run: sampling.Run, workdir: pathlib.Path, step: int = 3) -> pathlib.Path:
  """Puts a run that was made by hand into a folder, as training does."""
  workdir.mkdir()
  run_files.write(workdir, run.experiment.config, run.dataset.description)
  state = state_lib.TrainState(
    step=jnp.array(step),
    params={"none": jnp.zeros(1)},
    opt_state={"none": jnp.zeros(1)},
    ema_params=run.ema_params,
  )
  with checkpoint.open_manager(workdir) as manager:
    checkpoint.save(manager, state, {})
  return workdir


@pytest.fixture(scope="module")
def workdirs(run_of, tmp_path_factory) -> list[pathlib.Path]:
  """Folders of runs of two paths on the same records."""
  place = tmp_path_factory.mktemp("runs")
  return [_save(run_of(path), place / path) for path in ("findings", "elixr_c")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
  """Stands for a probe: sees the second finding in bright images, and so on."""

  thresholds: np.ndarray

  def scores(self, images: np.ndarray) -> np.ndarray:
    means = images.reshape(len(images), -1).mean(axis=1) / 255
    return np.stack([(means * (k + 1)) % 1 for k in range(14)], axis=1)


@pytest.fixture
def judged(monkeypatch) -> list[dict]:
  """What a probe would have been trained on; `Judge` judges."""
  calls = []

  def train_probe(images, findings, folder, *, validation, progress):
    calls.append({
      "images": images, "findings": findings, "folder": folder,
      "validation": validation,
    })  # fmt: skip
    return Judge(thresholds=np.full(14, 0.5))

  monkeypatch.setattr(comparison.probe, "train_probe", train_probe)
  return calls


@pytest.fixture
def generated(monkeypatch) -> list[str]:
  """Names of the runs that were sampled, once for each call."""
  calls = []
  sample = sampling.sample

  def counted(run, conditions, **options):
    calls.append(run.workdir.name)
    return sample(run, conditions, **options)

  monkeypatch.setattr(sampling, "sample", counted)
  return calls


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> pathlib.Path:
  """Where the comparison of `workdirs` is kept."""
  return tmp_path_factory.mktemp("compared") / "report"


@pytest.fixture
def compare(run_main, workdirs, out, judged):
  """Compares on the training images, which alone show findings five times."""

  def run(*arguments: str):
    names = ",".join(map(str, workdirs))
    return run_main(
      "compare",
      f"--workdirs={names}",
      f"--out={out}",
      "--split=train",
      "--batch_size=8",
      *arguments,
    )

  return run


def test_a_comparison_is_a_table_figures_and_a_picture(compare, out, judged, run_of):
  result = compare()
  assert result.code == 0, result.err
  table = (out / "table.md").read_text()
  assert result.out.strip() == table.strip()
  assert table.startswith("50 train images, one generated for each from its condition")
  rows = [line.split("|")[1].strip() for line in table.splitlines() if "|" in line]
  assert rows == [
    *("", "---", "real train images", "findings", "elixr_c"),
    *("path", "---", "findings", "elixr_c"),
  ]
  assert "Not an equal comparison" not in table
  assert "- elixr_c: phantom images, stand-in elixrc" in table
  metrics = json.loads((out / "metrics.json").read_text())
  assert set(metrics["adherence"]) == {"real train images", "findings", "elixr_c"}
  for run in metrics["runs"].values():
    # No events in folders that were made by hand.
    assert run["validation_loss"] is None
    assert run["step"] == 3
    assert 0 < run["change_by_condition"] < run["change_by_both"]
    # Of wavelets, which are invertible.
    assert run["reconstruction"]["exact"] is True
  assert table.count("| exact |") == 2
  with Image.open(out / "comparison.png") as picture:
    assert picture.size[0] > 10 * 128
    assert 3 * 128 < picture.size[1] < 4 * 128
  # The judge saw real images alone: the training split, and the validation split.
  (call,) = judged
  records = run_of("findings").dataset.records
  assert (len(call["images"]), len(call["validation"][0])) == (50, 1)
  np.testing.assert_array_equal(call["findings"], records.fields("train")["findings"])
  assert call["folder"] == records.folder / "probe"


def test_what_was_generated_is_not_generated_again(compare, out, generated):
  assert compare().code == 0
  first = list(generated)
  assert first in ([], ["findings", "findings", "elixr_c", "elixr_c"])
  table = (out / "table.md").read_text()
  assert compare().code == 0
  assert generated == first
  assert (out / "table.md").read_text() == table


def test_all_paths_get_the_same_noise_and_the_same_images(workdirs, out, compare):
  assert compare().code == 0
  arrays = {}
  for name in ("findings", "elixr_c"):
    with np.load(out / name / "images.npz") as file:
      arrays[name] = {key: file[key] for key in ("images", "swapped")}
    assert arrays[name]["images"].shape == (50, 32, 32, 1)
    assert arrays[name]["swapped"].shape == (32, 32, 32, 1)

  def flat(images):
    rows = images.reshape(len(images), -1).astype(float)
    return rows - rows.mean(axis=0)

  # An untrained denoiser leaves much of the noise: images of one number are alike.
  left, right = (flat(arrays[name]["images"]) for name in arrays)
  assert ((left @ right.T).argmax(axis=1) == np.arange(50)).mean() > 0.9


def _config(run: sampling.Run, **changes) -> dict:
  plain = json.loads(json.dumps(run.experiment.config))
  for key, value in changes.items():
    section, name = key.split("__")
    plain[section][name] = value
  return plain


def test_what_is_not_equal_is_named(run_of):
  run = run_of("findings")
  configs = [
    _config(run),
    _config(run_of("elixr_c"), data__root="elsewhere", parallel__fsdp=2),
    _config(run, optimizer__learning_rate=1.0, train__batch_size=99),
    _config(run, sample__guidance=7.0, sample__num_images=3, train__keep=9),
  ]
  differing = comparison_report.differing_keys
  assert differing(configs[:2]) == []
  assert differing(configs[:3]) == ["optimizer.learning_rate", "train.batch_size"]
  assert differing([configs[0], configs[3]]) == ["sample.guidance"]


def test_an_unequal_comparison_says_so(run_of, workdirs, judged, monkeypatch, tmp_path):
  run = run_of("findings", train__batch_size=16)
  other = _save(run, tmp_path / "other", step=5)

  def sample(run, conditions, *, num, seed, **_):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, 32, 32, 1), np.uint8)
    return python_types.SimpleNamespace(images=images)

  monkeypatch.setattr(sampling, "sample", sample)
  text = comparison.compare(
    [workdirs[0], other], tmp_path / "report", num=40, split="train"
  )
  assert "**Not an equal comparison**: these differ:" in text
  assert "train.batch_size, step of the checkpoint." in text
  assert "runs of 3, 5 steps" in text


def test_runs_on_other_records_are_refused(monkeypatch, tmp_path):
  def open_run(workdir, **settings):
    del settings
    records = python_types.SimpleNamespace(fingerprint=workdir.name)
    dataset = python_types.SimpleNamespace(records=records)
    return python_types.SimpleNamespace(dataset=dataset, workdir=workdir)

  monkeypatch.setattr(sampling, "open_run", open_run)
  with pytest.raises(errors.InputError, match="runs on 2 different sets of records"):
    comparison.compare([tmp_path / "a", tmp_path / "b"], tmp_path)


def test_runs_of_one_name_are_refused(tmp_path):
  workdirs = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
  with pytest.raises(errors.InputError, match="two runs of one name"):
    comparison.compare(workdirs, tmp_path)


def test_what_no_run_is_refused(run_main, tmp_path):
  arguments = [f"--workdirs={tmp_path / 'none'}", f"--out={tmp_path}"]
  assert "has no config.json" in run_main("compare", *arguments).complaint


def test_images_that_only_some_runs_have_a_condition_for_are_left_out(run_of, desk_of):
  partners = run_of("elixr_c", conditioning__reference="same_patient")
  paired = desk_of("elixr_c", conditioning__reference="same_patient")
  source = paired.dataset.source("test")
  usable = paired.dataset.ids("test")[source.reference_row >= 0]
  ids = comparison._ids([run_of("findings"), partners], "test", 99)
  assert ids == list(usable)
  assert comparison._ids([run_of("findings")], "test", 3) == [
    str(run_of("findings").dataset.ids("test")[place]) for place in (0, 4, 9)
  ]
  with pytest.raises(errors.InputError, match="no image has a condition in every run"):
    comparison._ids([partners], "validation", 3)


def test_effects_of_condition_and_noise():
  images = (
    np.zeros((4, 2, 2, 1), np.uint8)
    + np.array([0, 10, 30, 60], np.uint8)[:, None, None, None]
  )
  path = comparison_report.Path(
    name="a", images=images, swapped=images[:2] + 4, losses=(1.0, 2.0), kind="k", step=1
  )
  condition, both = comparison_report.effects(path)
  assert condition == pytest.approx(4)
  assert both == pytest.approx((10 + 20) / 2)
