"""The tables as files have the numbers and marks of the page."""

import csv

from cxr_diffusion_jax.evaluation import measurement
from cxr_diffusion_jax.report.comparison import files


def test_files_have_the_numbers_of_the_page(page, comparison):
  lines = (page.parent / "table.csv").read_text(encoding="utf-8").splitlines()
  entries = list(csv.DictReader(lines))
  num = sum(len(path.measurements) for path in comparison.paths)
  assert len(entries) == num + len(comparison.real)
  text = (page.parent / "table.md").read_text(encoding="utf-8")
  source = page.read_text(encoding="utf-8")
  for line in entries:
    if line["group"] != "all":
      continue
    value, low, high = (measurement.number(float(line[k])) for k in files.COLUMNS[7:10])
    assert f"{value} ({low} to {high})" in text
    assert f'class="value">{value}<' in source
    assert f'class="interval">{low} to {high}<' in source
  undefined = [line for line in entries if line["reason"]]
  assert undefined
  assert all(line["value"] == line["low"] == "" for line in undefined)


def test_files_csv_has_the_verdict(page):
  lines = (page.parent / "table.csv").read_text(encoding="utf-8").splitlines()
  best = {
    line["path"]: line["best"]
    for line in csv.DictReader(lines)
    if (line["metric"], line["group"]) == ("auroc", "all") and line["of"] == "generated"
  }
  assert [name for name, mark in best.items() if mark == "yes"] == ["elixr_bc"]
  assert list(best.values()).count("no") == 5
