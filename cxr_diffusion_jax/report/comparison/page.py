"""Puts a comparison on one page that needs nothing but itself.

Comparison -> rows -> sections -> OUT/report.html, OUT/table.md, OUT/table.csv
                         +-> OUT/figures/

The page's own policy forbids it to fetch anything; its one script is told by its hash.
"""

import base64
from collections.abc import Sequence
import hashlib
import pathlib

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.report.comparison import files, palette, sections
from cxr_diffusion_jax.report.comparison import names as names_lib
from cxr_diffusion_jax.report.comparison import rows as rows_lib
from cxr_diffusion_jax.report.comparison.markup import element, listing, text


def write(comparison: comparison_data.Comparison, out: pathlib.Path) -> pathlib.Path:
  """Writes the page, its figures and its tables.

  Args:
    comparison: what is shown.
    out: folder; receives report.html, table.md, table.csv and figures/.

  Returns:
    The path of the page.

  Raises:
    ValueError: no paths, two of one name, measurements or images that do not fit.
  """
  paths = [path.name for path in comparison.paths]
  if not paths or len(set(paths)) < len(paths):
    raise ValueError(f"paths {paths}: one or more, of different names")
  out.mkdir(parents=True, exist_ok=True)
  rows = rows_lib.of(comparison)
  made = sections.make(comparison, rows, palette.looks(paths), out)
  artifacts.write_text(out / "table.md", files.markdown(comparison, rows))
  artifacts.write_text(out / "table.csv", files.table(comparison, rows))
  page = out / "report.html"
  artifacts.write_text(page, _page(comparison.title, paths, made))
  return page


def _page(title: str, paths: Sequence[str], made: Sequence[sections.Section]) -> str:
  style, script = _asset("style.css"), _asset("sort.js")
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
    f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
  )
  head = [
    element("meta", charset="utf-8"),
    element("meta", http_equiv="Content-Security-Policy", content=policy),
    element("meta", name="viewport", content="width=device-width, initial-scale=1"),
    element("meta", name="color-scheme", content="light dark"),
    element("title", text(title)),
    # Or browsers ask for a file of that name.
    element("link", rel="icon", href="data:,"),
    element("style", style),
  ]
  links = [element("a", text(each.title), href=f"#{each.name}") for each in made]
  compared = (
    f"{len(paths)} conditioning paths" if len(paths) > 1 else "One set of images"
  )
  lead = f"{compared}: {names_lib.join(paths)}."
  parts = [
    element("a", "Skip to the content", class_="skip", href="#content"),
    element(
      "header",
      [
        element("h1", text(title)),
        element("p", text(lead), class_="lead"),
        element("nav", listing(links), aria_label="Sections"),
      ],
    ),
    element("main", [_section(each) for each in made], id="content", tabindex=-1),
    element("footer", "Synthetic images for research. Not for clinical use."),
    element("script", script),
  ]
  body = element("head", head) + element("body", parts)
  return f"<!doctype html>\n{element('html', body, lang='en')}\n"


def _section(each: sections.Section) -> str:
  title = element("h2", text(each.title), id=f"{each.name}-title")
  labelled = f"{each.name}-title"
  return element("section", title + each.body, id=each.name, aria_labelledby=labelled)


def _asset(name: str) -> str:
  return pathlib.Path(__file__).with_name(name).read_text(encoding="utf-8")
