"""The page of a comparison as text, and its tables as files; needs no browser."""

import csv
import dataclasses
import io
import itertools
import re

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.report.comparison import files, rows
from cxr_diffusion_jax.report.comparison import page as comparison_page
from tests.fixtures import comparisons


@pytest.fixture(scope="module")
def source(page) -> str:
  return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(source) -> comparisons.Page:
  return comparisons.Page(source)


def test_page_shows_pairs_of_training_conditions():
  pairs = np.full((2, 2, 8, 8, 1), 9, np.uint8)
  captions = ["near: a-1 and training a, distance 1", "own: b-1 and training b"]
  path = comparisons.path_of(
    "a", comparisons.cmmd(1.0), elicited=list(pairs), elicited_captions=captions
  )
  text = comparisons.render(
    comparisons.small(paths=[path, comparisons.path_of("b", comparisons.cmmd(2.0))])
  )
  assert text.count(captions[0]) == text.count(captions[1]) == 3
  title = "Images for conditions of training images"
  assert title in text
  assert title not in comparisons.render(
    comparisons.small(paths=[comparisons.path_of("a", comparisons.cmmd(1.0))])
  )


def test_page_loads_nothing_else(source, parsed):
  assert not re.search(r"https?:|//[a-z]", re.sub(r"data:[^\"]*", "", source))
  (policy,) = (x["content"] for x in parsed.all("meta") if "http-equiv" in x)
  assert policy.startswith("default-src 'none'; img-src data:;")
  for attributes in parsed.all("img"):
    assert attributes["src"].startswith("data:image/png;base64,")
  for attributes in parsed.all("a"):
    assert attributes["href"].startswith("#")
  # What another 6 paths of 500 shown pixels would add is bounded by a budget.
  assert len(source) < 5e6


def test_page_images_have_alternative_texts(parsed):
  pictures = parsed.all("img")
  assert len(pictures) == 7 * 6 + 6 * 4 * 2
  assert all(attributes["alt"] for attributes in pictures)
  drawn = parsed.all("svg")
  assert len(drawn) >= 8
  assert all(x["role"] == "img" and x["aria-label"] for x in drawn)


def test_page_ids_are_unique_and_links_have_targets(parsed):
  ids = [x["id"] for _, x in parsed.found if x.get("id")]
  assert len(ids) == len(set(ids))
  for _, attributes in parsed.found:
    for value in (attributes.get("href"), attributes.get("aria-labelledby")):
      if value and not value.startswith("data:"):
        assert value.removeprefix("#") in ids
    for target in re.findall(
      r"url\(#([^)]*)\)", " ".join(map(str, attributes.values()))
    ):
      assert target in ids


def test_page_headings_are_in_order(parsed):
  levels = [int(tag[1]) for tag, _ in parsed.found if re.fullmatch(r"h\d", tag)]
  assert levels[0] == 1
  assert levels.count(1) == 1
  assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
  assert parsed.all("html") == [{"lang": "en"}]


def test_page_sections_are_in_order(parsed):
  result = [x["id"] for x in parsed.all("section")]
  assert result == [
    "compared",
    "summary",
    "metrics",
    "groups",
    "samples",
    "findings",
    "guidance",
    "features",
    "labels",
    "losses",
    "neighbours",
    "readers",
    "limitations",
    "repeat",
  ]


def test_write_keeps_figures_as_svg_and_png(page):
  drawn = sorted(path.name for path in (page.parent / "figures").iterdir())
  assert {path.removesuffix(".png") for path in drawn if path.endswith(".png")} == {
    path.removesuffix(".svg") for path in drawn if path.endswith(".svg")
  }
  assert {"samples.svg", "guidance.svg", "losses.svg", "pca_probe.svg"} <= set(drawn)
  assert not [name for name in drawn if "partial" in name]


def test_page_warnings_come_first(source, comparison):
  for warning in comparison.warnings:
    assert source.index("Read with caution") < source.index(warning)
    assert source.index(warning) < source.index("12,000 phantom images")


BAD = """"><script>alert("1")</script>'&|*$--><img src=x onerror=alert(2)>\\"""


def _bad_comparison() -> comparison_data.Comparison:
  """A text that is markup in every field that takes text."""
  image = np.zeros((1, 8, 8, 1), np.uint8)
  measured = [
    comparisons.cmmd(1.0, judge=BAD, num_real=3, low=0.5, high=1.5),
    comparisons.cmmd(None, judge=BAD, reason=BAD, group=f"sex: {BAD}"),
    comparisons.cmmd(1.0, metric=BAD),
    *(
      comparisons.cmmd(
        value, reason=reason, subject="adherence", metric="auroc", group=group
      )
      for value, reason, group in (
        (0.7, "", f"finding: {BAD}"),
        (None, BAD, f"finding: {BAD}2"),
      )
    ),
  ]
  point = comparison_data.SweepPoint(
    guidance=1.0,
    primary=comparisons.cmmd(1.0, judge=BAD),
    fidelity=comparisons.cmmd(1.0, judge=BAD),
    adherence=comparisons.cmmd(1.0, judge=BAD),
  )
  features = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  paths = [
    comparisons.path_of(
      name,
      *measured,
      runs=[BAD],
      images=image,
      features={BAD: features},
      losses={BAD: {BAD: ([1, 2], [0.5, 0.25])}},
      sweep=[point],
      neighbours=np.stack([image, image], axis=1),
      neighbour_captions=[BAD],
      description=BAD,
      curve=[(0.5, BAD, comparisons.cmmd(0.5)), (0.5, "real", comparisons.cmmd(0.5))],
    )
    for name in (BAD, "b")
  ]
  verdict = comparison_data.Verdict(
    key=measured[0].key, ranking=[BAD, "b"], best=[BAD], differences=[("b", 1.0, 2.0)]
  )
  return comparisons.small(
    title=BAD,
    facts={BAD: BAD, "command": BAD},
    warnings=[BAD],
    differences={BAD: {BAD: BAD}},
    paths=paths,
    real=[comparisons.cmmd(1.0, judge=BAD, of="real")],
    verdicts=[verdict],
    shown=image,
    captions=[BAD],
    real_features={BAD: features, f"few {BAD}": features[:2]},
    limitations=[BAD],
  )


def test_page_escapes_text_in_every_field(tmp_path):
  comparison = _bad_comparison()
  comparison.paths[1].features[f"few {BAD}"] = comparison.paths[1].features[BAD]
  page = comparison_page.write(comparison, tmp_path)
  source = page.read_text(encoding="utf-8")
  parsed = comparisons.Page(source)
  assert len(parsed.all("script")) == 1
  assert all(image["src"].startswith("data:") for image in parsed.all("img"))
  assert not [name for _, result in parsed.found for name in result if name[:2] == "on"]
  for section in ("groups", "findings", "guidance", "features", "labels", "losses"):
    assert f'id="{section}"' in source
  # Text, attributes and captions: what was given, as it was given.
  texts = " ".join([*parsed.texts, *(str(x["alt"]) for x in parsed.all("img"))])
  assert texts.count(BAD) > 40
  table = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
  assert {line.count(" | ") for line in table if line.startswith("| ")} == {4, 5}


def test_page_gives_reasons_of_undefined_cells_and_sorts_them_last():
  paths = [
    comparisons.path_of("a", comparisons.cmmd(None, reason="9 images, 10 needed")),
    comparisons.path_of("b"),
  ]
  comparison = comparisons.small(
    paths=paths, real=[comparisons.cmmd(0.5, of="real", low=0.4, high=0.6)]
  )
  cells = comparisons.cells(comparison)[1:]
  assert "0.500" in cells[0]
  assert "0.400 to 0.600" in cells[0]
  assert "floor" in cells[0]
  assert 'data-value=""' in cells[1]
  assert "undefined" in cells[1]
  assert "9 images, 10 needed" in cells[1]
  assert 'data-value=""' in cells[2]
  assert "not measured" in cells[2]


def test_page_caption_lists_undefined_findings(source):
  assert "Undefined: Hernia (no image was asked to show it)." in source


def test_standin_judges_have_a_badge(source, comparison):
  judged = [row for row in rows.main(rows.build(comparison)) if row.standin]
  assert judged
  table = source[source.index('id="metrics"') : source.index('id="groups"')]
  assert table.count('class="badge"') == len(judged)


def test_write_refuses_paths_of_one_name(tmp_path):
  for paths in ([], [comparisons.path_of("a"), comparisons.path_of("a")]):
    with pytest.raises(ValueError, match="of different names"):
      comparison_page.write(comparisons.small(paths=paths), tmp_path)


def test_write_refuses_other_numbers_of_images(tmp_path):
  shown = np.zeros((2, 8, 8, 1), np.uint8)
  with pytest.raises(ValueError, match="a: 0, not 2"):
    comparison_page.write(comparisons.small(shown=shown, captions=["x", "y"]), tmp_path)


def test_page_links_the_reader_sheet_but_never_its_key(tmp_path):
  assert "has no reader study" in comparisons.render(comparisons.small())
  sheet = tmp_path / comparison_page.SHEET
  sheet.parent.mkdir(parents=True)
  sheet.write_text("")
  (tmp_path / "reader_study" / "key.csv").write_text("")
  page = comparison_page.write(comparisons.small(), tmp_path)
  links = [
    x["href"] for x in comparisons.Page(page.read_text(encoding="utf-8")).all("a")
  ]
  assert [link for link in links if link[0] != "#"] == [comparison_page.SHEET]


def test_page_of_one_set_of_images(tmp_path, comparison):
  given = comparison.paths[0].measurements[:1]
  page = comparison_page.write(
    comparisons.small(paths=[comparisons.path_of("clip_text", *given, runs=())]),
    tmp_path,
  )
  source = page.read_text(encoding="utf-8")
  assert "One set of images: clip_text." in source
  assert "evaluate --synthetic clip_text" in source
  assert 'id="guidance"' not in source


def test_page_and_table_mark_the_chosen_scale(source, page, comparison):
  section = re.findall(r'<table[^>]*id="scales".*?</table>', source, re.DOTALL)[0]
  assert section.count("<tr>") == 1 + sum(len(path.sweep) for path in comparison.paths)
  assert section.count(">chosen<") == len(comparison.paths)
  assert re.search(r'data-value="2"[^>]*>2 <span class="badge">chosen', section)
  table = (page.parent / "table.md").read_text(encoding="utf-8")
  assert table.count("| **2** |") == len(comparison.paths)
  assert "No guidance was chosen" not in source
  assert "No guidance was chosen" in comparisons.render(comparisons.small())


def test_page_names_the_primary_figure_and_what_is_not_ranked():
  comparison = comparisons.compared(["a"], [("b", 0.5, 1.5)])
  (verdict,) = comparison.verdicts
  reason = "circular: judged by clip, its own encoder"
  verdict = dataclasses.replace(
    verdict, ranking=["a", "b"], unranked={"c": reason}, primary=True
  )
  changed = dataclasses.replace(comparison, verdicts=[verdict])
  source = comparisons.render(changed)
  assert '<span class="badge">primary</span>' in source
  assert f"not ranked, {reason}" in comparisons.cells(changed)[-1]
  assert "The primary figure, CMMD" in source
  text = files.markdown(changed, rows.build(changed))
  assert "CMMD ↓ (primary)" in text
  assert "3.000; not ranked, circular" in text
  table = list(csv.DictReader(io.StringIO(files.table(changed, rows.build(changed)))))
  assert [line["best"] for line in table] == ["yes", "no", ""]
  # The others are exploratory.
  source = comparisons.render(comparison)
  assert '<span class="note">exploratory</span>' in source
  assert "The primary figure has no verdict" in source


def test_page_states_patients_beside_images():
  paths = [
    comparisons.path_of(name, comparisons.cmmd(1.0, patients=4)) for name in "ab"
  ]
  assert "9 (4 patients)" in comparisons.cells(comparisons.small(paths=paths))[0]


def test_page_compares_groups_by_what_they_have_above_their_floor():
  halves = np.random.default_rng(0).standard_normal((2, 128))
  interval = {"low": 0.5, "high": 3.5, "degrees": 8}
  measured = [
    comparisons.cmmd(value, group=group, deviations=tuple(row), **interval)
    for (group, value), row in zip(
      (("sex: F", 3.0), ("sex: M", 2.0)), halves, strict=True
    )
  ]
  path = dataclasses.replace(
    comparisons.path_of("a", measured[0]), measurements=measured
  )
  real = [dataclasses.replace(one, value=0.5, of="real") for one in measured]
  source = comparisons.render(comparisons.small(paths=[path], real=real))
  table = source[source.index('id="above"') :]
  assert '<td data-value="2.5">' in table
  assert "; sex: F" in table
