"""Templates: images without loss, escaping, and names that nobody gave."""

import base64
import io
import json
import re

import jinja2
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax.report import templates


def test_embed_keeps_the_pixels():
  pixels = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
  values = templates.embed(pixels)
  assert (values["width"], values["height"]) == (8, 8)
  data = base64.b64decode(values["src"].removeprefix("data:image/png;base64,"))
  with Image.open(io.BytesIO(data)) as image:
    np.testing.assert_array_equal(np.asarray(image), pixels[..., 0])
  assert templates.embed(pixels, 4)["width"] == 4


def test_render_escapes_text_and_refuses_missing_values():
  bad = "</title><script>alert(1)</script>"
  values = dict(title=bad, summary={bad: bad}, pictures=[], config={bad: bad})
  page = templates.render("run.html", **values)
  assert "<script>" not in page
  assert page.count("&lt;script&gt;") == 6
  with pytest.raises(jinja2.UndefinedError, match="summary"):
    templates.render("run.html", title="", pictures=[], config={})


def test_render_keeps_data_of_the_reader_sheet_out_of_the_markup():
  bad = "</script><script>alert(1)</script><!--&'"
  study = {"id": bad, "findings": [bad], "none": bad, "images": [{"name": bad}]}
  page = templates.render("reader_sheet.html", study=study)
  data = re.search(r'id="study">(.*?)</script>', page, re.DOTALL).group(1)
  assert json.loads(data) == study
  # The data and the sheet's own script.
  assert page.count("<script") == 2
  assert f"'sha256-{templates.digest(templates.asset('reader_sheet.js'))}'" in page
