"""Paths are compared on equal terms, nothing is made twice, the undefined says so."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from cxr_diffusion_jax.evaluation import eval_context
from tests.fixtures.runs import save_run


@pytest.fixture(scope="module")
def workdirs(run_of, tmp_path_factory) -> list[pathlib.Path]:
  """Folders of runs of two paths on the same records."""
  place = tmp_path_factory.mktemp("runs")
  return [save_run(run_of(path), place / path) for path in ("findings", "elixr_c")]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> pathlib.Path:
  """Where the comparison of `workdirs` is kept."""
  return tmp_path_factory.mktemp("compared") / "report"


@pytest.fixture
def compare(run_main, workdirs, out, judged):
  """Compares on the training images, which alone are many."""

  def run(*arguments: str):
    names = ",".join(map(str, workdirs))
    return run_main(
      "compare",
      f"--workdirs={names}",
      f"--out={out}",
      "--split=train",
      "--num=24",
      "--per_patient=0",
      "--batch_size=8",
      "--reader_num=2",
      *arguments,
    )

  return run


@pytest.fixture
def compared(compare, out, densenet_arrays):
  """Compares with a classifier of these weights, once; repeats it when it is called."""
  weights = out.parent / "densenet.safetensors"

  def repeat():
    result = compare(f"--weights=densenet={weights}")
    assert result.code == 0, result.err

  if not out.exists():
    safetensors.numpy.save_file(densenet_arrays, weights)
    repeat()
  return repeat


def test_compare_refuses_a_folder_with_files_of_the_user(compare, tmp_path):
  (tmp_path / "scan.png").write_text("mine")
  complaint = compare(f"--out={tmp_path}").complaint
  assert "did not write: scan.png; expected a new or empty folder" in complaint
  assert [path.name for path in tmp_path.iterdir()] == ["scan.png"]


@pytest.mark.usefixtures("compared")
def test_compare_writes_page_tables_figures_and_sheet(out):
  assert (out / "report.html").stat().st_size > 10_000
  assert (out / "reader_study" / "key.csv").is_file()
  assert list((out / "figures").glob("*.svg"))
  values = json.loads((out / "metrics.json").read_text())
  assert values["schema"] == 1
  assert list(values["paths"]) == ["findings", "elixr_c"]
  assert any("single training run" in reported for reported in values["warnings"])
  by_key = {
    (one["metric"], one["group"]): one
    for one in values["paths"]["elixr_c"]["measurements"]
  }
  distance = by_key["frechet_distance", "all"]
  assert (distance["num"], distance["standin"]) == (24, True)
  assert 0 < distance["patients"] < 24
  assert "deviations" not in distance
  assert f"24 ({distance['patients']} patients)" in (out / "table.md").read_text()
  named = json.loads((out / "primary.json").read_text())
  assert named == {"primary": ["frechet_distance"]}
  by_path = [path["groups"] for path in values["paths"].values()]
  assert all({"above", "interval", "against"} <= {*one} for of in by_path for one in of)
  assert any("Reconstruction" in warning for warning in values["warnings"])
  # No finding is on five of so few phantoms: undefined, and not .5.
  changed = by_key["change_by_condition", "all"]["value"]
  assert 0 < changed < by_key["change_by_condition_and_noise", "all"]["value"]
  assert {one["of"] for one in values["real"]} == {"real"}
  judges = {one["judge"] for one in values["real"] if one["metric"] == "auroc"}
  assert {name.split(",")[0] for name in judges} == {"probe", "densenet"}
  # Two images of a condition of each training patient, of which none is a copy.
  elicited = by_key["elicited_copies", "all"]
  assert elicited["num"] == 2 * elicited["patients"] > 0
  assert elicited["value"] == 0


def test_compare_reuses_images_of_the_same_noise(compared, out, workdirs):
  table = (out / "table.md").read_text()

  def written():
    parts = (p for w in workdirs for p in w.glob("evaluation/3/generated/**/*.npz"))
    return {path: path.stat().st_mtime_ns for path in parts}

  before = written()
  assert before
  compared()
  assert (out / "table.md").read_text() == table
  assert written() == before
  # Both paths: the same conditions with the same noise.
  stacks = []
  for workdir in workdirs:
    (part,) = workdir.glob("evaluation/3/generated/seed_0-*/images/part_00000.npz")
    with np.load(part) as arrays:
      stacks.append((arrays["ids"].tolist(), arrays["images"]))
  assert stacks[0][0] == stacks[1][0]

  def flat(images):
    rows = images.reshape(len(images), -1).astype(float)
    return rows - rows.mean(axis=0)

  # An untrained denoiser leaves much of the noise: images of one number are alike.
  left, right = (flat(images) for _, images in stacks)
  assert ((left @ right.T).argmax(axis=1) == np.arange(24)).mean() > 0.9


def test_compare_shard_makes_the_images_that_compare_judges(
  compared, compare, workdirs, tmp_path
):
  del compared  # It has made all images.
  workdir = workdirs[0]
  folder = workdir / "evaluation" / "3" / "generated"

  def images() -> dict[str, bytes]:
    parts = {path.relative_to(folder): path for path in folder.rglob("part_*.npz")}
    return {
      str(name): np.load(path)["images"].tobytes() for name, path in parts.items()
    }

  wanted = images()
  folder.rename(tmp_path / "all")
  for share in ("1/2", "0/2"):
    result = compare(f"--workdirs={workdir}", f"--shard={share}")
    assert result.code == 0, result.err
    assert f"share {share[0]} of 2 of" in result.out
  assert images() == wanted
  assert {name.split("/")[1] for name in wanted} == {
    *("images", "repeats", "swapped", "elicited")
  }


def test_evaluate_writes_into_the_run(run_main, workdirs, judged):
  result = run_main(
    "evaluate",
    f"--workdir={workdirs[0]}",
    "--split=train",
    "--num=24",
    "--per_patient=0",
    "--batch_size=8",
    "--metrics=fidelity",
    "--reader_num=0",
  )
  assert result.code == 0, result.err
  values = json.loads((workdirs[0] / "evaluation/3/metrics.json").read_text())
  assert {one["subject"] for one in values["paths"]["findings"]["measurements"]} == {
    "fidelity"
  }
  assert list(workdirs[0].glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--num=51"], "at most"),
    (["--num=51", "--per_patient=1"], "1 a patient; fix: ask for fewer"),
    (["--primary=ms_ssim"], "--primary=ms_ssim; expected a figure of which lower"),
    (["--primary=fidelity"], "--primary=fidelity; expected the name of one metric"),
    (["--metrics=fid"], "--metrics fid; expected all, some of fidelity"),
    (["--seeds=0,0"], "--seeds=0,0"),
    (["--sweep=much"], "--sweep=much"),
    (["--sweep=2", "--sweep_num=49"], "--sweep_num=49 with --primary=frechet_distance"),
    (
      ["--sweep=2", "--sweep_num=50"],
      "a sweep of guidance on validation conditions: 1 conditions",
    ),
    (["--weights=rad_dino"], "--weights=rad_dino"),
    (["--classifiers=none.onnx"], "none.onnx; expected a file NAME.onnx"),
    (["--split=none"], "split 'none'"),
  ],
)
def test_compare_refuses_bad_flags_in_one_line(arguments, words, compare):
  assert words in compare(*arguments).complaint


def test_compare_refuses_a_folder_without_a_run(run_main, tmp_path):
  arguments = [f"--workdirs={tmp_path / 'none'}", f"--out={tmp_path}"]
  assert "has no config.json" in run_main("compare", *arguments).complaint


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], "nothing to evaluate"),
    (["--real=a"], "--real; expected --workdir of a run, or --real and --synthetic"),
    (["--workdir=w", "--real=a", "--synthetic=b"], "--workdir and --real"),
    (["--real=a", "--synthetic=b"], "no such folder: a"),
    (["--real=a", "--synthetic=b", "--shard=0/2"], "--shard with --real"),
  ],
)
def test_evaluate_refuses_ambiguous_inputs(arguments, words, run_main, tmp_path):
  out = f"--out={tmp_path / 'out'}"
  assert words in run_main("evaluate", *arguments, out).complaint


def test_of_runs_judges_images_by_the_source_of_their_condition(run_of, judged):
  run = run_of("elixr_c", conditioning__reference="same_findings")
  context = eval_context.of_runs([run], split="train", num=6, per_patient=1)
  own = context.of_run(run)
  assert (own.conditions.ids != context.conditions.ids).all()
  for label in ("findings", "sex", "view"):
    np.testing.assert_array_equal(
      own.conditions.labels[label], context.conditions.labels[label]
    )
  # Nobody whose image a condition is made from is among those compared with.
  shown = {*own.conditions.patients, *context.conditions.patients}
  assert not shown & set(context.reference.patients)
  (features,) = own.features.values()
  places = [context.whole.ids.tolist().index(name) for name in own.conditions.ids]
  np.testing.assert_array_equal(features["conditions"], features["split"][places])
  assert context.of_run(run_of("findings")) is context
