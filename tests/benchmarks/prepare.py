"""Measures images/s and memory of `prepare` beside PIL in processes, on made images.

NIH-shaped tree of 1024-pixel PNGs -> records of 256 pixels      | in turns, each in
                                   -> PIL: open, grey, Lanczos   | processes of its own

  python tests/benchmarks/prepare.py --num 1000 --turns 3

Prints both rates, their ratio, the time that NIH's 112,120 images take, and the peak
memory for 3,000 and for 12,000 small pictures, which should not grow: `prepare` holds
one part of the records (128 MiB). Statistics, of at most
512 images, are no part of the rate; they are added to the time once. The CPU's time an
image compares the two on a machine that others use too.
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


def make_tree(root: Path, num: int, side: int) -> None:
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
    values = 190 - 120 * lungs
    values += np.random.default_rng(number).normal(0, 2.2, (side, side))
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(folder / name)
  (root / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")


def prepare(root: str, folder: str, size: int) -> tuple[float, float, float, float]:
  """Images/s, CPU seconds an image, seconds beside images, peak memory in MB."""
  from cxr_diffusion_jax.data.records import records
  from cxr_diffusion_jax.data.settings import DataSettings

  settings = DataSettings(root=root, image_size=size, records_dir=folder)
  moments: list[tuple[int, float, float]] = []

  def progress(label: str, done: int, total: int) -> None:
    del label, total
    moments.append((done, time.perf_counter(), time.process_time()))

  start = time.perf_counter()
  records.prepare_records(settings, progress=progress)
  seconds = time.perf_counter() - start
  num, wall, cpu = np.subtract(moments[-1], moments[0]).tolist()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
  return num / wall, cpu / num, seconds - moments[-1][0] * wall / num, peak


def pil_resize(path: str, size: int) -> float:
  """What a script with PIL does with an image; returns CPU seconds."""
  start = time.process_time()
  with Image.open(path) as image:
    square = image.convert("L").resize((size, size), Image.Resampling.LANCZOS)
  np.asarray(square)
  return time.process_time() - start


def pil(paths: list[str], size: int, workers: int) -> tuple[float, float]:
  """Images/s and CPU seconds an image."""
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as executor:
    # Their start does not count.
    list(executor.map(pil_resize, paths[:workers], [size] * workers))
    start = time.perf_counter()
    cpu = list(executor.map(pil_resize, paths, [size] * len(paths), chunksize=16))
    return len(paths) / (time.perf_counter() - start), statistics.mean(cpu)


def resizing(path: str, size: int, turns: int = 50) -> tuple[float, float]:
  """CPU seconds of resizing one image: ours and PIL's, in turns, medians."""
  from cxr_diffusion_jax.data import lanczos

  with Image.open(path) as picture:
    picture = picture.convert("L")
  image, both = np.asarray(picture), (size, size)
  seconds = []
  for _ in range(turns):
    start = time.process_time()
    lanczos.resize(image, both)
    middle = time.process_time()
    np.asarray(picture.resize(both, Image.Resampling.LANCZOS))
    seconds.append((middle - start, time.process_time() - middle))
  ours, peer = np.median(seconds, axis=0).tolist()
  return ours, peer


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
  cpu: dict[str, list[float]] = {"prepare": [], "PIL": []}
  with tempfile.TemporaryDirectory() as place:
    root, folder = Path(place) / "tree", Path(place) / "records"

    def run() -> tuple[float, float, float, float]:
      shutil.rmtree(folder, ignore_errors=True)
      context = multiprocessing.get_context("spawn")
      with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(prepare, str(root), str(folder), size).result()

    memory = []
    for num in (3000, 12_000):
      make_tree(root, num, 64)
      memory.append(f"{run()[3]:.0f} MB of {num:,} pictures")
      shutil.rmtree(root)
    make_tree(root, arguments.num, arguments.side)
    rest = 0.0
    paths = [str(path) for path in sorted((root / "original").iterdir())]
    kilobytes = statistics.mean(Path(path).stat().st_size for path in paths) / 1e3
    print(f"{len(paths)} images of {arguments.side} pixels, {kilobytes:.0f} kB each")
    ours, peer = resizing(paths[0], size)
    print(f"resizing alone: {1e3 * ours:.1f} ms of CPU, PIL {1e3 * peer:.1f} ms")
    for _ in range(arguments.turns):
      *of_prepare, rest, _ = run()
      of_pil = pil(paths, size, arguments.workers)
      for name, (rate, seconds) in {"prepare": of_prepare, "PIL": of_pil}.items():
        rates[name].append(rate)
        cpu[name].append(seconds)
  middle = {name: statistics.median(turns) for name, turns in rates.items()}
  for name, turns in rates.items():
    each = ", ".join(f"{rate:.0f}" for rate in turns)
    milliseconds = 1e3 * statistics.median(cpu[name])
    print(f"{name}: {middle[name]:.0f} images/s (turns: {each})", end="")
    print(f", {milliseconds:.1f} ms of CPU an image")
  print(f"prepare / PIL: {middle['prepare'] / middle['PIL']:.2f}")
  minutes = (NIH_IMAGES / middle["prepare"] + rest) / 60
  print(f"{NIH_IMAGES:,} images at this rate: {minutes:.0f} min")
  print(f"peak memory: {', '.join(memory)}")


if __name__ == "__main__":
  main()
