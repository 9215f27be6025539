"""Renders some images of a phantom tree to PNGs, here or in a process of its own.

stdin: one JSON job -> PNG files, each whole or absent -> stdout: one index a line

A process started by name imports numpy and Pillow only, whatever the caller runs.
"""

from collections.abc import Generator, Sequence
import json
import os
import pathlib
import sys

from PIL import Image, PngImagePlugin

from cxr_diffusion_jax.data.sources.phantom import TEXT_KEY
from cxr_diffusion_jax.extras.phantom import render as phantom_lib


def run(
  seed: int, size: int, images: Sequence[tuple[int, int, str]]
) -> Generator[int, None, None]:
  """Renders images (index, patient, path); yields each index once its file is whole."""
  for index, patient, path in images:
    phantom = phantom_lib.make_phantom(seed, index, size=size, patient=patient)
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
      [box.finding, *(round(value, 5) for value in box[1:])] for box in phantom.boxes
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
  for index in run(**json.load(sys.stdin)):
    sys.stdout.write(f"{index}\n")
    sys.stdout.flush()


if __name__ == "__main__":
  main()
