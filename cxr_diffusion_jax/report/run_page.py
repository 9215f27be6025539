"""The picture report of one run: what it learned, how, and what it makes.

WORKDIR/{config,dataset}.json, TensorBoard events, samples/, generated/
  -> report.html (one file, opens from disk) and report.png (the same pictures)
"""

import base64
from collections.abc import Mapping
import html
import io
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from cxr_diffusion_jax import errors, pictures
from cxr_diffusion_jax.evaluation.metrics import reconstruction
from cxr_diffusion_jax.report import curves
from cxr_diffusion_jax.run import compatibility
from cxr_diffusion_jax.run import files as run_files

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: auto;
  padding: 1rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; }
td, th { padding: .1rem .8rem .1rem 0; text-align: left; }
"""


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Writes report.html and report.png from what stands in a run's folder.

  Returns:
    The path of the page.

  Raises:
    errors.InputError: the folder holds no run, or one without samples.
  """
  config, dataset = run_files.read(workdir)
  steps = sorted((workdir / "samples").glob("step_*.png"))
  if not steps:
    raise errors.InputError(f"no pictures in {workdir}/samples", fix="train the run")
  shown = sorted({steps[0], steps[len(steps) // 4], steps[-1]})
  named = [("Loss", curves.picture({workdir.name: curves.read(workdir)}))]
  named += [(path.stem.replace("_", " "), _picture(path)) for path in shown]
  generated = workdir / "generated"
  facts = {
    "images": dataset["kind"],
    "training images": f"{dataset['num_rows']['train']:,}",
    "codec alone": reconstruction.read(workdir, config),
    **{
      f"column {name}": column["encoder"] for name, column in dataset["columns"].items()
    },
  }
  if (generated / "pairs.png").exists():
    named.append(("Condition and generated", _picture(generated / "pairs.png")))
    facts |= _recognition(generated)
  pictures.save(_stack([picture for _, picture in named]), workdir / "report.png")
  page = workdir / "report.html"
  page.write_text(_page(workdir.name, facts, named, config), encoding="utf-8")
  return page


def recognition_rate(images: np.ndarray, references: np.ndarray, own: np.ndarray):
  """Returns how often a generated image is most like the image it was asked to be like.

  Likeness is the correlation of pixels. Chance is one over the number of references.

  Args:
    images: [n h w] generated, any range.
    references: [m h w] images of the conditions.
    own: [n] int, the index of each generated image's own reference.
  """

  def normal(stack: np.ndarray) -> np.ndarray:
    flat = stack.reshape(len(stack), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)

  likeness = normal(images) @ normal(references).T
  return float(np.mean(likeness.argmax(axis=1) == own))


def _recognition(generated: pathlib.Path) -> dict[str, str]:
  entries = json.loads((generated / "samples.json").read_text())["samples"]
  if not all("reference_file" in entry for entry in entries):
    return {}
  files = sorted({entry["reference_file"] for entry in entries})
  rate = recognition_rate(
    np.stack([np.asarray(_picture(generated / entry["file"])) for entry in entries]),
    np.stack([np.asarray(_picture(generated / name)) for name in files]),
    np.array([files.index(entry["reference_file"]) for entry in entries]),
  )
  return {
    "own condition recognised": (
      f"{rate:.0%} of {len(entries)} images by pixel correlation among {len(files)}"
      f" conditions (chance {1 / len(files):.0%})"
    )
  }


def _picture(path: pathlib.Path) -> Image.Image:
  with Image.open(path) as picture:
    return picture.copy()


def _stack(images: list[Image.Image]) -> Image.Image:
  width = max(image.width for image in images)
  height = sum(image.height + pictures.MARGIN for image in images)
  picture = Image.new("RGB", (width, height), "white")
  y = 0
  for image in images:
    picture.paste(image.convert("RGB"), (0, y))
    y += image.height + pictures.MARGIN
  return picture


def _page(
  name: str,
  facts: Mapping[str, str],
  named: list[tuple[str, Image.Image]],
  config: Mapping[str, Any],
) -> str:
  parts = []
  for title, picture in named:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    parts.append(
      f"<h2>{html.escape(title)}</h2>"
      f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
    )
  return (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{html.escape(name)}</title><style>{_STYLE}</style>"
    f"<h1>{html.escape(name)}</h1>{_table(facts)}{''.join(parts)}"
    "<p>Synthetic images for research. Not for clinical use.</p>"
    f"<details><summary>Config</summary>{_table(compatibility.flatten(config))}"
    "</details></html>\n"
  )


def _table(values: Mapping[str, Any]) -> str:
  rows = "".join(
    f'<tr><th scope="row">{html.escape(str(key))}</th>'
    f"<td>{html.escape(str(value))}</td></tr>"
    for key, value in values.items()
  )
  return f"<table>{rows}</table>"
