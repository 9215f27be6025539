"""A metric is one record in one new file: flags, tables and pages find it."""

import json

import numpy as np
from PIL import Image
import pytest


@pytest.fixture
def folders(tmp_path):
  """Two folders of images; those of the second are brighter."""
  for name, bright in (("a", 0), ("b", 60)):
    (tmp_path / name).mkdir()
    for number in range(30):
      values = np.random.default_rng(number).integers(0, 150, (32, 32)) + bright
      image = Image.fromarray(values.astype(np.uint8))
      image.save(tmp_path / name / f"{name}{number}.png")
  return tmp_path


def test_metric_is_one_record_in_one_file(install, folders, run_main, judged):
  install("evaluation/metrics/mean_gap.py")
  result = run_main(
    "evaluate",
    f"--real={folders}/a",
    f"--synthetic={folders}/b",
    f"--out={folders}/out",
    "--metrics=mean_gap",
  )
  assert result.code == 0, result.err
  values = json.loads((folders / "out" / "metrics.json").read_text())
  (path,) = values["paths"].values()
  (figure,) = [one for one in path["measurements"] if one["group"] == "all"]
  assert (figure["metric"], figure["better"]) == ("mean_gap", "lower")
  # 16 features, each brighter by 60.
  assert figure["value"] == pytest.approx(60 * 4, rel=0.2)
  assert "Mean gap" in (folders / "out" / "table.md").read_text()
  page = (folders / "out" / "report.html").read_text()
  assert "Distance of the mean features." in page
