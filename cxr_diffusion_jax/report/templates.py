"""HTML pages from the jinja2 templates in the folder beside this file.

render("run.html", title=..., ...) -> one page that loads nothing else

Every value is escaped unless it is `markupsafe.Markup`. A page's own policy forbids
everything but images inside it, its style, and the one script that it names by hash.
"""

import base64
import functools
import hashlib
from importlib import resources
import io

import jinja2
from markupsafe import Markup
import numpy as np
from PIL import Image

_PACKAGE = "cxr_diffusion_jax.report"


def render(template: str, **values: object) -> str:
  """Fills a template; a name that it uses and nobody gave is an error."""
  return _environment().get_template(template).render(values)


def embed(picture: np.ndarray | Image.Image, side: int = 10_000) -> dict[str, object]:
  """Returns the attributes src, width and height of an image inside the page, lossless.

  Args:
    picture: an image, or its grey pixels uint8 [h w 1].
    side: longest side in pixels; larger images are scaled down.
  """
  if not isinstance(picture, Image.Image):
    picture = Image.fromarray(np.asarray(picture, np.uint8)[..., 0])
  if max(picture.size) > side:
    picture = picture.copy()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
  buffer = io.BytesIO()
  picture.save(buffer, "PNG", optimize=True)
  data = base64.b64encode(buffer.getvalue()).decode()
  src = f"data:image/png;base64,{data}"
  return {"src": src, "width": picture.width, "height": picture.height}


def asset(name: str) -> Markup:
  """Returns the text of a style sheet or script of this package."""
  file = resources.files(_PACKAGE) / "templates" / name
  return Markup(file.read_text(encoding="utf-8"))


def digest(script: str) -> str:
  """Returns the hash by which a content security policy allows a script."""
  return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader(_PACKAGE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.globals |= {"asset": asset, "digest": digest}
  environment.filters["embed"] = embed
  return environment
