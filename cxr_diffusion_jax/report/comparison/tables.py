"""Tables of a comparison's page: figures of paths, what verdicts rest on, facts.

[Row, ...] -> <table> with a column a path; sorted and filtered by `sort.js`
"""

from collections.abc import Mapping, Sequence

from cxr_diffusion_jax.evaluation import measurement
from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.report.comparison import names as names_lib
from cxr_diffusion_jax.report.comparison import palette
from cxr_diffusion_jax.report.comparison.markup import element, listing, region, text
from cxr_diffusion_jax.report.comparison.rows import Row

_STANDIN = '<span class="badge" title="Trained by this project">stand-in</span>'
_DIRECTIONS = {
  "lower": ("↓", "lower is better"),
  "higher": ("↑", "higher is better"),
}


def results(
  rows: Sequence[Row],
  looks: Mapping[str, palette.Look],
  *,
  name: str,
  caption: str,
) -> str:
  """The figures of all paths, with filters above and a region that scrolls.

  Args:
    rows: those shown; with a column for the group where any is of a part.
    looks: of the paths, in the order of their columns.
    name: the table's id.
    caption: markup.
  """
  with_groups = any(row.key[3] != "all" for row in rows)
  heads = [_head("Metric and judge", "text", class_="sticky")]
  heads += [_head("Images of", "text")] if with_groups else []
  heads += [_head("N", "number"), _head("Real images", "number")]
  heads += [_head(path, "number", look) for path, look in looks.items()]
  table = element(
    "table",
    [
      element("caption", element("span", caption)),
      element("thead", element("tr", heads)),
      element("tbody", [_row(row, looks, with_groups) for row in rows]),
    ],
    class_="sortable results",
    id=name,
  )
  return _filters(rows, name, with_groups) + region(table, "Table: scrolls sideways")


def differences(verdicts: Sequence[comparison_data.Verdict], looks) -> str:
  """Each path less the first in the ranking, by each figure of all images."""
  body = []
  for verdict in verdicts:
    if verdict.key[3] != "all":
      continue
    first = verdict.ranking[0]
    for path, low, high in verdict.differences:
      apart = "yes" if low > 0 or high < 0 else "no"
      body.append(
        element(
          "tr",
          [
            element("th", figure_name(verdict.key), scope="row", class_="sticky"),
            element("td", chip(path, looks[path])),
            element("td", chip(first, looks[first])),
            element(
              "td",
              f"{measurement.number(low)} to {measurement.number(high)}",
              data_value=(low + high) / 2,
            ),
            element("td", apart),
          ],
        )
      )
  heads = [
    _head("Metric and judge", "text", class_="sticky"),
    _head("Path", "text"),
    _head("Less the first", "text"),
    _head("95 % interval", "number"),
    _head("Excludes zero", "text"),
  ]
  table = element(
    "table",
    [
      element(
        "caption",
        element("span", "A path's figure minus that of the path that ranks first."),
      ),
      element("thead", element("tr", heads)),
      element("tbody", body),
    ],
    class_="sortable",
    id="differences",
  )
  return region(table, "Table of differences: scrolls sideways")


def wins(values: Mapping[str, tuple[int, int]], looks) -> str:
  """By how many metrics each path alone is best, and is among the best."""
  body = [
    element(
      "tr",
      element("th", chip(path, looks[path]), scope="row")
      + "".join(element("td", str(number)) for number in numbers),
    )
    for path, numbers in values.items()
  ]
  heads = ("Path", "Alone best by", "Among the best by")
  head = element("tr", [element("th", name, scope="col") for name in heads])
  return element(
    "table", element("thead", head) + element("tbody", body), class_="compact"
  )


def facts(values: Mapping[str, str]) -> str:
  """A list of what is known."""
  items = [
    element("div", element("dt", text(key)) + element("dd", text(value)))
    for key, value in values.items()
  ]
  return element("dl", items, class_="facts")


def configs(values: Mapping[str, Mapping[str, str]], looks) -> str:
  """Keys of configs that differ, a column a path."""
  body = [
    element(
      "tr",
      [
        element("th", element("code", text(key)), scope="row", class_="sticky"),
        *(element("td", text(of_path.get(path, "not set"))) for path in looks),
      ],
    )
    for key, of_path in values.items()
  ]
  heads = [element("th", "Key", scope="col", class_="sticky")]
  heads += [
    element("th", chip(path, look), scope="col") for path, look in looks.items()
  ]
  table = element(
    "table",
    element("thead", element("tr", heads)) + element("tbody", body),
    class_="configs",
  )
  return region(table, "Table of settings: scrolls sideways")


def glossary(rows: Sequence[Row]) -> str:
  """What the figures say, of those that are shown."""
  metrics = dict.fromkeys(row.key[1] for row in rows)
  return listing(
    f"<strong>{text(names_lib.title(metric))}</strong>: "
    f"{text(names_lib.meaning(metric))}"
    for metric in metrics
    if names_lib.meaning(metric)
  )


def chip(path: str, look: palette.Look) -> str:
  """A path's name in words with its colour and marker."""
  glyph = element(
    "span", look.glyph, class_="glyph", aria_hidden="true", data_path=look.index
  )
  return element("span", glyph + text(path), class_="chip")


def figure_name(
  key: tuple[str, str, str, str], *, better: str = "", standin: bool = False
) -> str:
  """A metric and its judge as markup."""
  name = text(names_lib.title(key[1]))
  if better:
    arrow, words = _DIRECTIONS[better]
    name += f'&nbsp;<abbr title="{words}" aria-label="{words}">{arrow}</abbr>'
  judge = text(key[2] or "pixels") + (f" {_STANDIN}" if standin else "")
  return element("span", name, class_="metric") + element("span", judge, class_="judge")


def _head(name: str, kind: str, look: palette.Look | None = None, class_="") -> str:
  shown = chip(name, look) if look else text(name)
  arrow = element("span", class_="arrow", aria_hidden="true")
  button = element("button", shown + arrow, type="button")
  return element(
    "th",
    button,
    scope="col",
    aria_sort="none",
    data_kind=kind,
    class_=class_ or None,
  )


def _row(row: Row, looks: Mapping[str, palette.Look], with_groups: bool) -> str:
  subject, metric, judge, group = row.key
  name = figure_name(row.key, better=row.better, standin=row.standin)
  cells = [
    element(
      "th",
      name,
      scope="row",
      class_="sticky",
      data_value=f"{names_lib.title(metric)} {judge}",
    )
  ]
  if with_groups:
    cells.append(element("td", text(group)))
  first = next(iter(row.all))
  counts = element("span", text(row.counts[0]), class_="value")
  if row.counts[1]:
    counts += element("span", f"against {row.counts[1]}", class_="interval")
  cells.append(element("td", counts, data_value=first.num))
  limit = {"lower": "floor", "higher": "ceiling"}.get(row.better, "")
  cells.append(_cell(row.real, note=limit, missing="none"))
  alone = len(row.best) == 1
  for path in looks:
    note = "" if path not in row.best else "best" if alone else "among best"
    cells.append(_cell(row.of_paths.get(path), note=note, best=path in row.best))
  kind = group.split(":")[0]
  return element("tr", cells, data_subject=subject, data_judge=judge, data_kind=kind)


def _cell(
  each: Measurement | None,
  *,
  note: str = "",
  best: bool = False,
  missing: str = "not measured",
) -> str:
  if each is None:
    return element("td", missing, class_="missing", data_value="")
  if each.value is None:
    told = element("span", "undefined", class_="undefined")
    return element(
      "td", told + element("span", text(each.reason), class_="reason"), data_value=""
    )
  shown = element("span", measurement.number(each.value), class_="value")
  if each.low is not None and each.high is not None:
    interval = f"{measurement.number(each.low)} to {measurement.number(each.high)}"
    shown += element("span", interval, class_="interval")
  if note:
    shown += element("span", note, class_="mark" if best else "note")
  return element("td", shown, class_="best" if best else None, data_value=each.value)


def _filters(rows: Sequence[Row], name: str, with_groups: bool) -> str:
  """Selects for what the rows differ in; shown by the script that makes them work."""
  offered = [
    (
      "subject",
      "Subject",
      {row.key[0]: names_lib.SUBJECTS[row.key[0]] for row in rows},
    ),
    ("judge", "Judge", {row.key[2]: row.key[2] or "pixels" for row in rows}),
  ]
  if with_groups:
    kinds = dict.fromkeys(row.key[3].split(":")[0] for row in rows)
    offered.append(("kind", "Images by", {kind: kind for kind in kinds}))
  made = []
  for key, label, values in offered:
    if len(values) < 2:
      continue
    options = [element("option", "all", value="*")]
    options += [element("option", text(told), value=x) for x, told in values.items()]
    select = element("select", options, data_table=name, data_key=key)
    made.append(element("label", f"{label} {select}"))
  status = element("span", "", role="status", class_="status", data_table=name)
  return element("div", [*made, status], class_="filters", hidden=True)
