"""Anybody's images are judged by their files alone, or refused in one line."""

import json
import pathlib

import numpy as np
from PIL import Image
import pytest
import safetensors.numpy

from cxr_diffusion_jax.evaluation.comparison import folders as folder_comparison


def _write(folder: pathlib.Path, count: int, seed: int, bright: float = 0) -> None:
  """Smooth noise, with findings in the labels by the brightness of a corner."""
  folder.mkdir()
  rng = np.random.default_rng(seed)
  for number in range(count):
    small = rng.integers(0, 200, (4, 4), np.uint8)
    image = Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)
    shifted = np.clip(np.asarray(image, np.float32) + bright, 0, 255).astype(np.uint8)
    Image.fromarray(shifted).save(folder / f"{folder.name}_{number:03d}.png")


@pytest.fixture
def folders(tmp_path) -> pathlib.Path:
  _write(tmp_path / "a", 120, 0)
  _write(tmp_path / "b", 60, 1)
  _write(tmp_path / "c", 60, 2, bright=60)
  return tmp_path


def _of(folders: pathlib.Path, real: str, synthetic: str) -> list[str]:
  out = f"--out={folders}/evaluation"
  return [f"--real={folders}/{real}", f"--synthetic={folders}/{synthetic}", out]


def _figures(out: pathlib.Path) -> dict:
  values = json.loads((out / "metrics.json").read_text())
  (actual,) = values["paths"].values()
  both = {"generated": actual["measurements"], "real": values["real"]}
  return {
    (of, one["metric"]): one
    for of, measurements in both.items()
    for one in measurements
    if one["group"] == "all"
  }


def test_folders_that_are_brighter_are_above_the_floor(folders, run_main, judged):
  for name in ("b", "c"):
    result = run_main(
      "evaluate",
      f"--real={folders}/a",
      f"--synthetic={folders}/{name}",
      f"--out={folders}/of_{name}",
    )
    assert result.code == 0, result.err
  same, brighter = _figures(folders / "of_b"), _figures(folders / "of_c")
  floor = same["real", "frechet_distance"]
  assert floor["num"] == same["generated", "frechet_distance"]["num"] == 60
  assert same["generated", "frechet_distance"]["value"] < 2 * floor["value"]
  assert brighter["generated", "frechet_distance"]["value"] > 5 * floor["value"]
  # Nothing is known of findings or of training images: said, and not guessed.
  assert same["generated", "auroc"]["value"] is None
  assert "not known" in same["generated", "distance_to_training_p50"]["reason"]
  assert (folders / "of_b" / "report.html").is_file()
  facts = json.loads((folders / "of_b" / "metrics.json").read_text())["facts"]
  assert "unknown" in facts["patients of both folders"]


def test_folders_with_copies_of_training_images_are_reported(folders, run_main, judged):
  result = run_main(
    "evaluate", *_of(folders, "a", "b"), f"--training={folders}/b", "--metrics=privacy"
  )
  assert result.code == 0, result.err
  figures = _figures(folders / "evaluation")
  assert figures["generated", "exact_copies"]["value"] == 1


def _name_patients(folders: pathlib.Path, **patients: range) -> str:
  rows = [
    f"{x}_{n:03d}.png,No Finding,{p}"
    for x in patients
    for n, p in enumerate(patients[x])
  ]
  (folders / "l.csv").write_text("\n".join(["file,findings,patient", *rows]) + "\n")
  return f"--labels={folders}/l.csv"


@pytest.mark.parametrize(("first", "left"), [(0, 30), (30, 60)])
def test_folders_leave_out_patients_of_the_reference(
  first, left, folders, run_main, judged
):
  labels = _name_patients(folders, b=range(60), c=range(first, first + 60))
  inputs = [*_of(folders, "b", "c"), labels, "--metrics=blockiness_8"]
  result = run_main("evaluate", *inputs)
  assert result.code == 0, result.err
  # Half of the real patients are held out, those with synthetic images first.
  out = folders / "evaluation"
  assert _figures(out)["generated", "blockiness_8"]["num"] == left
  said = f"{60 - left} of 60 synthetic images of patients in the reference or the judge"
  assert f"{said}'s training are left out" in (out / "metrics.json").read_text()


def test_folders_with_few_patients_beside_the_reference_are_refused(
  folders, run_main, judged
):
  for name in "de":
    _write(folders / name, 30, 3)
  labels = _name_patients(folders, d=range(30), e=range(30))
  complaint = run_main("evaluate", *_of(folders, "d", "e"), labels).complaint
  assert "15 of 30 synthetic images are of patients in the reference" in complaint


def test_folders_without_an_extractor_are_refused(folders, run_main):
  result = run_main("evaluate", *_of(folders, "a", "b"))
  assert "no network to extract features with" in result.complaint
  assert "--weights rad_dino=FOLDER, --probe FOLDER" in result.complaint


def test_folders_are_judged_by_a_probe_of_separate_images(
  folders, run_main, judged, densenet_arrays, monkeypatch
):
  rows = [f"a_{n:03d}.png,{'Effusion' if n % 2 else 'No Finding'}" for n in range(120)]
  rows += [f"b_{n:03d}.png,{'Effusion' if n % 3 else 'Mass'}" for n in range(60)]
  (folders / "l.csv").write_text("\n".join(["file,findings", *rows]) + "\n")
  seen = []

  def train_probe(images, findings, folder, *, validation, changes, progress):
    assert changes == {}
    del folder, progress
    seen.append((len(images), findings.shape, len(validation[0])))
    return judged

  monkeypatch.setattr(folder_comparison.probe, "train_probe", train_probe)
  monkeypatch.setattr(folder_comparison, "MIN_TRAINING", 50)
  weights = folders / "densenet.safetensors"
  safetensors.numpy.save_file(densenet_arrays, weights)
  result = run_main(
    "evaluate",
    *_of(folders, "a", "b"),
    f"--labels={folders}/l.csv",
    f"--weights=densenet={weights}",
  )
  assert result.code == 0, result.err
  assert seen == [(60, (60, 14), 12)]
  figures = _figures(folders / "evaluation")
  # 48 images are left: half of them are the floor, half what all is compared with.
  assert figures["generated", "kernel_distance"]["num"] == 24
  assert figures["real", "kernel_distance"]["num"] == 24
  values = json.loads((folders / "evaluation/metrics.json").read_text())
  reported = {
    (one["judge"].split(",")[0], one["group"]): one
    for one in next(iter(values["paths"].values()))["measurements"]
    if one["metric"] == "auroc"
  }
  assert reported["probe", "finding: Effusion"]["value"] is not None
  assert "one class alone" in reported["probe", "finding: Hernia"]["reason"]
  # A published classifier judges beside it.
  assert reported["densenet", "finding: Effusion"]["value"] is not None
  assert "does not score" in reported["densenet", "finding: Hernia"]["reason"]
  assert not reported["densenet", "all"]["standin"]


@pytest.mark.parametrize(
  ("break_it", "words"),
  [
    (lambda empty: empty.mkdir(), "no image in "),
    (
      lambda empty: (empty.mkdir(), Image.new("L", (48, 48)).save(empty / "x.png")),
      "--image_size 32 resizes them all",
    ),
  ],
)
def test_folders_that_are_incompatible_are_refused(
  break_it, words, folders, run_main, judged
):
  break_it(folders / "empty")
  assert words in run_main("evaluate", *_of(folders, "a", "empty")).complaint


def test_folders_with_files_of_the_user_are_refused(folders, run_main):
  out = folders / "out"
  (out / "figures").mkdir(parents=True)
  (out / "figures" / "scan.png").write_text("mine")
  inputs = [f"--real={folders}/a", f"--synthetic={folders}/b"]
  complaint = run_main("evaluate", *inputs, f"--out={out}").complaint
  assert "did not write: figures; expected a new or empty folder" in complaint
  assert (out / "figures" / "scan.png").read_text() == "mine"
