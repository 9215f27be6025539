"""HTML as text: elements whose attributes are always escaped, and images inside them.

name, content, attributes -> "<name attribute='...'>content</name>"

Content is markup already; what comes from users goes through `text` first.
"""

import base64
from collections.abc import Iterable
import html
import io

import numpy as np
from PIL import Image

# They have no content and no end tag.
_VOID = ("img", "input", "link", "meta")


def text(value: object) -> str:
  """Escapes what is not markup."""
  return html.escape(str(value))


def element(name: str, content: str | Iterable[str] = "", /, **attributes) -> str:
  """Returns an element.

  Args:
    name: of the tag.
    content: markup, or parts of it.
    **attributes: escaped; `aria_label` is aria-label and `class_` is class; True for an
      attribute without a value, None and False for none.
  """
  told = []
  for key, value in attributes.items():
    key = key.strip("_").replace("_", "-")
    if value is True:
      told.append(f" {key}")
    elif value is not None and value is not False:
      told.append(f' {key}="{html.escape(str(value))}"')
  start = f"<{name}{''.join(told)}>"
  if name in _VOID:
    return start
  return f"{start}{content if isinstance(content, str) else ''.join(content)}</{name}>"


def image(pixels: np.ndarray, alt: str, side: int) -> str:
  """Returns an image that is held in the page itself, without loss.

  Args:
    pixels: uint8 [h w 1].
    alt: what it shows, for those who cannot see it.
    side: pixels of its longer side at most; larger ones are made smaller.
  """
  picture = Image.fromarray(np.asarray(pixels, np.uint8)[..., 0])
  if max(picture.size) > side:
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
  buffer = io.BytesIO()
  picture.save(buffer, "PNG", optimize=True)
  data = base64.b64encode(buffer.getvalue()).decode()
  return element(
    "img",
    src=f"data:image/png;base64,{data}",
    alt=alt,
    width=picture.width,
    height=picture.height,
  )


def region(content: str, label: str) -> str:
  """Returns a part of the page that scrolls on its own, by keyboard too."""
  return element(
    "div", content, class_="scroll", role="region", tabindex=0, aria_label=label
  )


def listing(items: Iterable[str], **attributes) -> str:
  """Returns a list of markup; "" of no items."""
  made = [element("li", item) for item in items]
  return element("ul", made, **attributes) if made else ""


def folded(title: str, content: str, *, opened: bool = False) -> str:
  """Returns what is shown when asked for; `title` is markup."""
  return element("details", element("summary", title) + content, open=opened)
