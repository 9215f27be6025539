"""The page of a comparison as text, and its tables as files; needs no browser."""

import csv
import dataclasses
import html.parser
import io
import itertools
import re
import sys
import types

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation import measurement
from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.report.comparison import (
  files,
  palette,
  projection,
  rows,
  verdict_text,
)
from cxr_diffusion_jax.report.comparison import page as comparison_page

_VOID = ("img", "link", "meta", "input")


class Page(html.parser.HTMLParser):
  """The tags of a page with their attributes; refuses what is not closed."""

  def __init__(self, source: str):
    super().__init__()
    self.found: list[tuple[str, dict[str, str | None]]] = []
    self.texts: list[str] = []
    self._open: list[str] = []
    self.feed(source)
    assert not self._open

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))
    if tag not in _VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)

  def all(self, *wanted: str) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in self.found if tag in wanted]


@pytest.fixture(scope="module")
def source(page) -> str:
  return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(source) -> Page:
  return Page(source)


def _small(**changes) -> comparison_data.Comparison:
  """Two paths, nothing but what is given."""
  empty = np.zeros((0, 8, 8, 1), np.uint8)
  values = dict(
    title="two",
    facts={},
    warnings=[],
    differences={},
    paths=[_path("a"), _path("b")],
    real=[],
    verdicts=[],
    shown=empty,
    captions=[],
    real_features={},
    limitations=[],
  )
  return comparison_data.Comparison(**values | changes)


def _path(name: str, *measurements: Measurement, **changes):
  values = dict(
    name=name,
    runs=[f"{name}0", f"{name}1"],
    images=np.zeros((0, 8, 8, 1), np.uint8),
    measurements=measurements,
    features={},
    losses={},
    sweep=[],
    neighbours=np.zeros((0, 2, 8, 8, 1), np.uint8),
    neighbour_captions=[],
    description="",
  )
  return comparison_data.PathResult(**values | changes)


def _cmmd(value: float | None, **changes) -> Measurement:
  values = dict(subject="fidelity", metric="cmmd", value=value, num=9, better="lower")
  return Measurement(**values | changes)


def _compared(best: list[str], differences, names=("a", "b", "c")):
  """Paths of CMMD 1, 2, 3 ... and a verdict about them."""
  paths = [_path(name, _cmmd(i + 1.0)) for i, name in enumerate(names)]
  verdict = comparison_data.Verdict(
    key=_cmmd(1.0).key, ranking=names, best=best, differences=differences
  )
  return _small(paths=paths, verdicts=[verdict])


def _render(comparison, **values) -> str:
  """The page without figures."""
  return comparison_page.render(comparison, rows.build(comparison), {}, **values)


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
    _cmmd(1.0, judge=BAD, num_real=3, low=0.5, high=1.5),
    _cmmd(None, judge=BAD, reason=BAD, group=f"sex: {BAD}"),
    _cmmd(1.0, metric=BAD),
    *(
      _cmmd(value, reason=reason, subject="adherence", metric="auroc", group=group)
      for value, reason, group in (
        (0.7, "", f"finding: {BAD}"),
        (None, BAD, f"finding: {BAD}2"),
      )
    ),
  ]
  point = comparison_data.SweepPoint(
    guidance=1.0,
    primary=_cmmd(1.0, judge=BAD),
    fidelity=_cmmd(1.0, judge=BAD),
    adherence=_cmmd(1.0, judge=BAD),
  )
  features = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  paths = [
    _path(
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
      curve=[(0.5, BAD, _cmmd(0.5)), (0.5, "real", _cmmd(0.5))],
    )
    for name in (BAD, "b")
  ]
  verdict = comparison_data.Verdict(
    key=measured[0].key, ranking=[BAD, "b"], best=[BAD], differences=[("b", 1.0, 2.0)]
  )
  return _small(
    title=BAD,
    facts={BAD: BAD, "command": BAD},
    warnings=[BAD],
    differences={BAD: {BAD: BAD}},
    paths=paths,
    real=[_cmmd(1.0, judge=BAD, of="real")],
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
  parsed = Page(source)
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


def _marks(comparison) -> dict[str, str]:
  """Path -> the mark of its cell in the table of one metric."""
  cells = _cells(comparison)[2:]
  return {
    path.name: (re.findall(r'class="mark">([^<]*)<', cell) or [""])[0]
    for path, cell in zip(comparison.paths, cells, strict=True)
  }


def _cells(comparison) -> list[str]:
  """The cells of the main table's only row: N, real images, then the paths."""
  source = _render(comparison)
  table = source[source.index('<table class="sortable results" id="all"') :]
  body = table[table.index("<tbody>") : table.index("</tbody>")]
  return re.findall(r"<td[^>]*>.*?</td>", body)


@pytest.mark.parametrize(
  ("best", "marked"),
  [
    (["a"], {"a": "best", "b": "", "c": ""}),
    (["a", "b"], {"a": "among best", "b": "among best", "c": ""}),
    (["a", "b", "c"], {"a": "", "b": "", "c": ""}),
  ],
)
def test_best_is_marked_if_another_path_is_worse(best, marked):
  differences = [("b", 0.5, 1.5), ("c", 1.0, 3.0)]
  comparison = _compared(best, differences)
  assert _marks(comparison) == marked
  text = files.markdown(comparison, rows.build(comparison))
  bold = re.findall(r"\*\*(\d)\.000\*\*", text)
  assert len(bold) == sum(bool(mark) for mark in marked.values())


@pytest.mark.parametrize(
  ("best", "differences", "kind", "sentence"),
  [
    (
      ["a"],
      [("b", 0.5, 1.5), ("c", 1.0, 3.0)],
      "one",
      "a is significantly better than b and c.",
    ),
    # The first is not known to be better than c: then nothing says that it is.
    (
      ["a"],
      [("b", 0.5, 1.5), ("c", -0.1, 3.0)],
      "one",
      "a alone has no path that is significantly better.",
    ),
    (
      ["a", "b"],
      [("b", -0.5, 1.5), ("c", 1.0, 3.0)],
      "some",
      "a and b are best and cannot be distinguished; c is significantly worse than some"
      " other path.",
    ),
    (
      ["a", "b", "c"],
      [("b", -0.5, 1.5), ("c", -0.1, 3.0)],
      "none",
      "no significant difference between a, b and c.",
    ),
  ],
)
def test_findings_claim_no_more_than_the_verdict(best, differences, kind, sentence):
  comparison = _compared(best, differences)
  (result,) = verdict_text.findings(rows.build(comparison))
  assert (result.kind, result.sentence) == (kind, sentence)


def test_overview_names_no_best_without_verdicts():
  comparison = _small(paths=[_path("a", _cmmd(1.0)), _path("b", _cmmd(9.0))])
  result = verdict_text.findings(rows.build(comparison))
  assert result == []
  assert "nothing here says" in verdict_text.overview(result)
  assert set(_marks(comparison).values()) == {""}


def test_page_gives_reasons_of_undefined_cells_and_sorts_them_last():
  paths = [_path("a", _cmmd(None, reason="9 images, 10 needed")), _path("b")]
  comparison = _small(paths=paths, real=[_cmmd(0.5, of="real", low=0.4, high=0.6)])
  cells = _cells(comparison)[1:]
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


def test_page_csv_has_the_verdict(page):
  lines = (page.parent / "table.csv").read_text(encoding="utf-8").splitlines()
  best = {
    line["path"]: line["best"]
    for line in csv.DictReader(lines)
    if (line["metric"], line["group"]) == ("auroc", "all") and line["of"] == "generated"
  }
  assert [name for name, mark in best.items() if mark == "yes"] == ["elixr_bc"]
  assert list(best.values()).count("no") == 5


def test_build_refuses_contradicting_measurements():
  same = _small(paths=[_path("a", _cmmd(1.0), _cmmd(1.0)), _path("b")])
  assert len(rows.build(same)) == 1
  with pytest.raises(ValueError, match="measured twice"):
    rows.build(_small(paths=[_path("a", _cmmd(1.0), _cmmd(2.0)), _path("b")]))
  with pytest.raises(ValueError, match="unknown paths: z"):
    rows.build(_compared(["z"], [], names=("a", "b")))


def test_write_refuses_paths_of_one_name(tmp_path):
  for paths in ([], [_path("a"), _path("a")]):
    with pytest.raises(ValueError, match="of different names"):
      comparison_page.write(_small(paths=paths), tmp_path)


def test_write_refuses_other_numbers_of_images(tmp_path):
  shown = np.zeros((2, 8, 8, 1), np.uint8)
  with pytest.raises(ValueError, match="a: 0, not 2"):
    comparison_page.write(_small(shown=shown, captions=["x", "y"]), tmp_path)


def test_page_links_the_reader_sheet_but_never_its_key(tmp_path):
  assert "has no reader study" in _render(_small())
  sheet = tmp_path / comparison_page.SHEET
  sheet.parent.mkdir(parents=True)
  sheet.write_text("")
  (tmp_path / "reader_study" / "key.csv").write_text("")
  page = comparison_page.write(_small(), tmp_path)
  links = [x["href"] for x in Page(page.read_text(encoding="utf-8")).all("a")]
  assert [link for link in links if link[0] != "#"] == [comparison_page.SHEET]


def test_looks_depend_on_the_place_and_differ():
  many = [f"path{i}" for i in range(12)]
  looks = palette.looks(many)
  assert palette.looks(many[:3]) == {name: looks[name] for name in many[:3]}
  assert len({(look.color, look.marker) for look in looks.values()}) == 12


@pytest.mark.parametrize(
  ("colors", "paper"), [(palette.LIGHT, "#ffffff"), (palette.DARK, "#1a1e25")]
)
def test_palette_has_contrast_to_the_paper(colors, paper):
  def luminance(color: str) -> float:
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])

  for color in colors:
    dark, light = sorted((luminance(color), luminance(paper)))
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_planes_fit_pca_on_real_images(monkeypatch):
  real = np.random.default_rng(0).normal(size=(40, 3)) * [5, 2, 0]
  far = real + np.array([0, 0, 100])
  monkeypatch.setattr(projection, "has_umap", lambda: False)
  (plane,) = projection.planes(real, {"far": far})
  # The third axis says nothing of real images, so it is not seen.
  np.testing.assert_allclose(plane.of_paths["far"], plane.real, atol=1e-9)
  assert plane.method == "PCA"
  with pytest.raises(ValueError, match="real ones"):
    projection.planes(real, {"a": real[:, :2]})
  with pytest.raises(ValueError, match="2 real images, not 3"):
    projection.planes(real[:2], {})


def test_planes_fit_umap_on_real_images(monkeypatch):
  fitted = []

  class First:
    """In place of UMAP: the first two numbers."""

    def __init__(self, **_):
      pass

    def fit(self, values):
      fitted.append(values)
      return self

    def transform(self, values):
      return values[:, :2]

  monkeypatch.setattr(projection, "has_umap", lambda: True)
  monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=First))
  real = np.random.default_rng(0).normal(size=(9, 3))
  _, plane = projection.planes(real, {"a": real + 1})
  assert plane.method == "UMAP"
  assert len(fitted) == 1
  np.testing.assert_array_equal(fitted[0], real)
  np.testing.assert_array_equal(plane.of_paths["a"], real[:, :2] + 1)


def test_rows_have_titles_and_meanings():
  assert rows.title("tstr_macro_auroc_difference") == "TSTR macro AUROC difference"
  assert rows.title("recall") == "Recall"
  assert "0.5" in rows.meaning("auroc")
  assert "ranked" in rows.meaning("average_precision")
  assert rows.meaning("of no such name") == ""


def test_page_of_one_set_of_images(tmp_path, comparison):
  given = comparison.paths[0].measurements[:1]
  page = comparison_page.write(
    _small(paths=[_path("clip_text", *given, runs=())]), tmp_path
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
  assert "No guidance was chosen" in _render(_small())


def test_page_names_the_primary_figure_and_what_is_not_ranked():
  comparison = _compared(["a"], [("b", 0.5, 1.5)])
  (verdict,) = comparison.verdicts
  reason = "circular: judged by clip, its own encoder"
  verdict = dataclasses.replace(
    verdict, ranking=["a", "b"], unranked={"c": reason}, primary=True
  )
  changed = dataclasses.replace(comparison, verdicts=[verdict])
  source = _render(changed)
  assert '<span class="badge">primary</span>' in source
  assert f"not ranked, {reason}" in _cells(changed)[-1]
  assert "The primary figure, CMMD" in source
  text = files.markdown(changed, rows.build(changed))
  assert "CMMD ↓ (primary)" in text
  assert "3.000; not ranked, circular" in text
  table = list(csv.DictReader(io.StringIO(files.table(changed, rows.build(changed)))))
  assert [line["best"] for line in table] == ["yes", "no", ""]
  # The others are exploratory.
  source = _render(comparison)
  assert '<span class="note">exploratory</span>' in source
  assert "The primary figure has no verdict" in source


def test_page_states_patients_beside_images():
  paths = [_path(name, _cmmd(1.0, patients=4)) for name in "ab"]
  assert "9 (4 patients)" in _cells(_small(paths=paths))[0]


def test_page_compares_groups_by_what_they_have_above_their_floor():
  halves = np.random.default_rng(0).standard_normal((2, 128))
  interval = {"low": 0.5, "high": 3.5, "degrees": 8}
  measured = [
    _cmmd(value, group=group, deviations=tuple(row), **interval)
    for (group, value), row in zip(
      (("sex: F", 3.0), ("sex: M", 2.0)), halves, strict=True
    )
  ]
  path = dataclasses.replace(_path("a", measured[0]), measurements=measured)
  real = [dataclasses.replace(one, value=0.5, of="real") for one in measured]
  source = _render(_small(paths=[path], real=real))
  table = source[source.index('id="above"') :]
  assert '<td data-value="2.5">' in table
  assert "; sex: F" in table
