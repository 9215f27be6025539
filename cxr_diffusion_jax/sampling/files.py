"""Samples on disk: one PNG each, two pictures of all, and a JSON of their origin.

Samples --write--> OUT/{images/, references/, grid.png, pairs.png, samples.json}
"""

from collections.abc import Sequence
import datetime
import io
import json
import pathlib

from absl import logging
from etils import epath
import numpy as np
from PIL import Image, PngImagePlugin

from cxr_diffusion_jax import artifacts, pictures
from cxr_diffusion_jax.sampling import request as request_lib
from cxr_diffusion_jax.sampling import sample as sampling

GENERATED, PAIRS = "generated", "pairs.png"

# The key of a PNG's text that says, in JSON, how the image was generated.
SYNTHETIC = "synthetic"

# A row of pairs.png: what it shows, and uint8 [n h w 1], one for each sample.
Row = tuple[str, np.ndarray]


def write(
  samples: sampling.Samples,
  out: pathlib.Path,
  above: Sequence[Row] = (),
  below: Sequence[Row] = (),
) -> None:
  """Writes images, both grids and the JSON to an empty folder.

  Args:
    above: additional rows of pairs.png, above the generated images.
    below: additional rows below them, for the first image of each condition.
  """
  entries = []
  for row, (entry, name) in enumerate(zip(samples.entries, samples.names, strict=True)):
    files = {"file": (f"images/{entry['number']:05d}_{name}.png", samples.images)}
    if samples.references is not None:
      files["reference_file"] = (f"references/{name}.png", samples.references)
    for path, images in files.values():
      (out / path).parent.mkdir(exist_ok=True)
      is_generated = images is samples.images
      facts = {**entry, **_origin(samples)} if is_generated else None
      (out / path).write_bytes(png(images[row], facts))
    entries.append({**entry, **{key: path for key, (path, _) in files.items()}})
  text = json.dumps({"settings": samples.settings, "samples": entries}, indent=2)
  (out / "samples.json").write_text(text + "\n")
  shown = list(samples.images[:64])
  side = max(1, round(len(shown) ** 0.5))
  rows = [shown[i : i + side] for i in range(0, len(shown), side)]
  pictures.save(pictures.grid(rows, title=samples.title), out / "grid.png")
  pictures.save(_pairs(samples, above, below), out / PAIRS)


def png(image: np.ndarray, facts: artifacts.JsonMapping | None) -> bytes:
  """Encodes an image uint8 [h w 1] as PNG.

  Args:
    facts: of a generated image, for its text chunk `SYNTHETIC`; None for a real one.
  """
  text = None
  if facts is not None:
    text = PngImagePlugin.PngInfo()
    text.add_text(SYNTHETIC, json.dumps(facts))
  buffer = io.BytesIO()
  Image.fromarray(image[..., 0]).save(buffer, "PNG", pnginfo=text)
  return buffer.getvalue()


def _origin(samples: sampling.Samples) -> artifacts.Json:
  return {"checkpoint_step": samples.settings["checkpoint_step"]}


def new_name(workdir: epath.Path, topic: str) -> epath.Path:
  """Returns a folder that does not exist yet: WORKDIR/generated/<date-time>_<topic>."""
  topic = request_lib.slug({"prompt": topic})
  name = f"{datetime.datetime.now():%Y%m%d-%H%M%S}_{topic}"
  folder = workdir / GENERATED
  present = {path.name for path in folder.iterdir()} if folder.exists() else set()
  return folder / request_lib.distinct([*sorted(present), name])[-1]


def newest(workdir: epath.Path) -> epath.Path | None:
  """The newest whole folder of `new_name` with pictures of pairs; None if none is.

  In runs of earlier versions, WORKDIR/generated is itself such a folder.
  """
  folder = epath.Path(workdir) / GENERATED
  dated = sorted(folder.glob(f"*/{PAIRS}")) or [folder / PAIRS]
  folders = [path.parent for path in dated if path.exists()]
  for place in reversed(folders):
    if artifacts.is_whole(place):
      return place
    logging.warning("%s is incomplete: its `sample` was interrupted; repeat it", place)
  return None


def _pairs(
  samples: sampling.Samples, above: Sequence[Row], below: Sequence[Row]
) -> Image.Image:
  """One column a condition: its image on top, what was generated from it below."""
  k = samples.per_condition
  starts = range(0, min(len(samples.images), 12 * k), k)
  if samples.references is not None:
    above = [("condition", samples.references), *above]
  # The last condition may have fewer images than the others.
  rows = [*above, *(("generated", samples.images[j:]) for j in range(k)), *below]
  return pictures.grid(
    [[images[start] for start in starts if start < len(images)] for _, images in rows],
    row_labels=[label for label, _ in rows],
    column_labels=[sampling.caption(samples.entries[start]) for start in starts],
    title=samples.title,
  )
