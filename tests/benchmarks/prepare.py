"""Measures images/s and memory of `prepare` beside PIL in processes, on made images.

NIH-shaped tree of 1024-pixel PNGs -> records of 256 pixels      | in turns, each in
                                   -> PIL: open, grey, Lanczos   | processes of its own

  python tests/benchmarks/prepare.py --num 1000 --turns 3

Prints both rates, their ratio, the time that NIH's 112,120 images take at that rate,
and the peak memory for half and for all of the images: it should not grow.
"""

import argparse
import concurrent.futures
import multiprocessing
from pathlib import Path
import resource
import shutil
import statistics
import sys
import tempfile
import time

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

NIH_IMAGES = 112_120


def make_tree(root: Path, num: int, side: int, first: int = 0) -> None:
  """Writes pictures as large as NIH's: about 3 bits a pixel after compression."""
  folder = root / "original"
  folder.mkdir(parents=True, exist_ok=True)
  y, x = np.mgrid[:side, :side] / side
  lungs = np.exp(-(((abs(x - 0.5) - 0.2) / 0.12) ** 2 + ((y - 0.5) / 0.3) ** 2))
  rows = [
    "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"
  ]
  for number in range(num):
    name = f"{number + 1:08d}_000.png"
    rows.append(f"{name},No Finding,{number + 1},50,F,PA")
    if number >= first:
      noise = np.random.default_rng(number).normal(0, 2.2, (side, side))
      values = 190 - 120 * lungs + noise
      Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(folder / name)
  (root / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")


def prepare(root: str, folder: str, size: int) -> tuple[float, float]:
  """Seconds of `prepare_records`, and the process' peak memory in MB."""
  from cxr_diffusion_jax.data.records import records
  from cxr_diffusion_jax.data.settings import DataSettings

  settings = DataSettings(root=root, image_size=size, records_dir=folder)
  start = time.perf_counter()
  records.prepare_records(settings)
  seconds = time.perf_counter() - start
  return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def pil_resize(path: str, size: int) -> int:
  """What a script with PIL does with an image; returns its sum."""
  with Image.open(path) as image:
    square = image.convert("L").resize((size, size), Image.Resampling.LANCZOS)
  return int(np.asarray(square).sum())


def pil_seconds(paths: list[str], size: int, workers: int) -> float:
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as executor:
    # Their start does not count.
    list(executor.map(pil_resize, paths[:workers], [size] * workers))
    start = time.perf_counter()
    list(executor.map(pil_resize, paths, [size] * len(paths), chunksize=16))
    return time.perf_counter() - start


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num", type=int, default=1000)
  parser.add_argument("--side", type=int, default=1024)
  parser.add_argument("--image_size", type=int, default=256)
  parser.add_argument("--workers", type=int, default=2, help="of PIL")
  parser.add_argument("--turns", type=int, default=3)
  arguments = parser.parse_args()
  size = arguments.image_size
  rates: dict[str, list[float]] = {"prepare": [], "PIL": []}
  with tempfile.TemporaryDirectory() as place:
    root, folder = Path(place) / "tree", Path(place) / "records"

    def run() -> tuple[float, float]:
      shutil.rmtree(folder, ignore_errors=True)
      context = multiprocessing.get_context("spawn")
      with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(prepare, str(root), str(folder), size).result()

    half = arguments.num // 2
    make_tree(root, half, arguments.side)
    memory = [run()[1]]
    make_tree(root, arguments.num, arguments.side, first=half)
    paths = [str(path) for path in sorted((root / "original").iterdir())]
    kilobytes = statistics.mean(Path(path).stat().st_size for path in paths) / 1e3
    print(f"{len(paths)} images of {arguments.side} pixels, {kilobytes:.0f} kB each")
    for _ in range(arguments.turns):
      seconds, peak = run()
      rates["prepare"].append(len(paths) / seconds)
      memory.append(peak)
      seconds = pil_seconds(paths, size, arguments.workers)
      rates["PIL"].append(len(paths) / seconds)
  middle = {name: statistics.median(turns) for name, turns in rates.items()}
  for name, turns in rates.items():
    each = ", ".join(f"{rate:.0f}" for rate in turns)
    print(f"{name}: {middle[name]:.0f} images/s (turns: {each})")
  print(f"prepare / PIL: {middle['prepare'] / middle['PIL']:.2f}")
  minutes = NIH_IMAGES / middle["prepare"] / 60
  print(f"{NIH_IMAGES:,} images at this rate: {minutes:.0f} min")
  print(
    f"peak memory: {memory[0]:.0f} MB of {half} images, {max(memory[1:]):.0f} of all"
  )


if __name__ == "__main__":
  main()
