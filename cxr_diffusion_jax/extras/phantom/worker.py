"""Renders some images of a phantom tree to PNGs, here or in a process of its own.

stdin: one JSON job -> PNG files, each whole or absent -> stdout: one index a line

A process started by name imports numpy and Pillow only, whatever the caller runs.
"""

from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
import sys

from PIL import Image, PngImagePlugin

from cxr_diffusion_jax.data.sources.phantom import TEXT_KEY
from cxr_diffusion_jax.extras.phantom import render as phantom_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """Images to render.

  Attributes:
    seed: of the collection. size: pixels of a side.
    images: (index, patient, path of the PNG) of each.
  """

  seed: int
  size: int
  images: tuple[tuple[int, int, str], ...]


def run(job: Job) -> Iterator[int]:
  """Renders and writes the job's images; yields each index once its file is whole."""
  for index, patient, path in job.images:
    phantom = phantom_lib.make_phantom(job.seed, index, size=job.size, patient=patient)
    text = PngImagePlugin.PngInfo()
    text.add_text(TEXT_KEY, json.dumps(facts_of(phantom)))
    part = pathlib.Path(path + ".part")
    image = Image.fromarray(phantom.image)
    image.save(part, format="PNG", pnginfo=text, compress_level=4)
    os.replace(part, path)
    yield index


def facts_of(phantom: phantom_lib.Phantom) -> dict:
  """All of a phantom but its pixels, as JSON holds it."""
  return {
    "findings": list(phantom.findings),
    "boxes": [
      [box.finding, *(round(value, 5) for value in (box.x, box.y, box.w, box.h))]
      for box in phantom.boxes
    ],
    "age": phantom.age,
    "sex": phantom.sex,
    "view": phantom.view,
    "cardiothoracic_ratio": round(phantom.cardiothoracic_ratio, 4),
    "pixel_cm": round(phantom.pixel_cm, 5),
    "lung_area": [round(value, 5) for value in phantom.lung_area],
    "diaphragm": [round(value, 5) for value in phantom.diaphragm],
  }


def main() -> None:
  """Runs the job on stdin, writing each finished index to stdout."""
  fields = json.load(sys.stdin)
  fields["images"] = tuple(tuple(image) for image in fields["images"])
  for index in run(Job(**fields)):
    sys.stdout.write(f"{index}\n")
    sys.stdout.flush()


if __name__ == "__main__":
  main()
