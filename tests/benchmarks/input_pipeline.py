"""Measures images/s of records through Grain beside PIL + PyTorch's DataLoader.

tree -> records -> grain -> float batches     |  one after the other, in turns, in
tree -> PNGs -> PIL -> DataLoader -> batches  |  one run on the same images

  python tests/benchmarks/input_pipeline.py --root nih-cxr --image_size 256

Both serve shuffled float32 batches in [-1, 1]. The tree must hold the images at the
wanted size, so that neither resizes while it is measured. PyTorch is no requirement of
the project: install it (`pip install torch`) for this script.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
import statistics
import sys
import tempfile
import time

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import pipeline
from cxr_diffusion_jax.data.records import records
from cxr_diffusion_jax.data.sources.nih import layout
from tests.data.record_settings import RecordSettings


class PngDataset:
  """What a PyTorch user writes: opens, decodes and scales one PNG at a time."""

  def __init__(self, paths: list[str]):
    self.paths = paths

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> np.ndarray:
    with Image.open(self.paths[index]) as image:
      grey = np.asarray(image.convert("L"), np.float32)
    return grey[np.newaxis] / 127.5 - 1


def torch_batches(
  paths: list[str], batch_size: int, num_workers: int
) -> Iterator[np.ndarray]:
  """Endless shuffled batches through PyTorch; workers are kept between epochs."""
  try:
    import torch
  except ImportError:
    raise SystemExit(
      "this script measures PyTorch's DataLoader too: pip install torch"
    ) from None
  dataset = PngDataset(paths)
  # One sampler without end: an epoch's end would make the workers wait.
  sampler = torch.utils.data.RandomSampler(
    dataset, replacement=True, num_samples=2**31 - 1
  )
  loader = torch.utils.data.DataLoader(
    dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers
  )
  for batch in loader:
    yield batch.numpy()


def images_per_second(batches: Iterator, batch_size: int, seconds: float) -> float:
  """Pulls batches for a while; what was read ahead before is spent first."""
  for _ in range(16):
    next(batches)
  count = 0
  start = time.perf_counter()
  while time.perf_counter() - start < seconds:
    next(batches)
    count += 1
  return count * batch_size / (time.perf_counter() - start)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--root", required=True, help="a tree with {size}x{size}/")
  parser.add_argument("--image_size", type=int, default=256)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
  parser.add_argument("--turns", type=int, default=3)
  parser.add_argument("--torch_workers", type=int, default=2)
  parser.add_argument("--grain_workers", type=int, default=0)
  parser.add_argument("--grain_threads", type=int, default=4)
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    settings = RecordSettings(
      root=arguments.root,
      folder=folder,
      image_size=arguments.image_size,
      missing="drop",
    )
    prepared = records.prepare_records(settings)
    source = pipeline.JoinedSource(prepared, "train")
    stems = prepared.ids("train")[source.row]
    tree = layout.find_tree(arguments.root)
    resolved = tree.resolve(arguments.image_size)
    paths = [resolved[stem] for stem in stems]
    print(f"{len(paths)} images of {arguments.image_size} pixels")
    rates: dict[str, list[float]] = {"grain": [], "torch": []}
    for _ in range(arguments.turns):
      # Created in every turn, so that none reads ahead while the other is measured.
      batches = pipeline.train_batches(
        source,
        batch_size=arguments.batch_size,
        seed=0,
        num_workers=arguments.grain_workers,
        num_threads=arguments.grain_threads,
      )
      rate = images_per_second(batches, arguments.batch_size, arguments.seconds)
      rates["grain"].append(rate)
      del batches
      batches = torch_batches(paths, arguments.batch_size, arguments.torch_workers)
      rate = images_per_second(batches, arguments.batch_size, arguments.seconds)
      rates["torch"].append(rate)
      batches.close()
  for name, turns in rates.items():
    each = ", ".join(f"{rate:.0f}" for rate in turns)
    print(f"{name}: {statistics.median(turns):.0f} images/s (turns: {each})")
  ratio = statistics.median(rates["grain"]) / statistics.median(rates["torch"])
  print(f"grain / torch: {ratio:.2f}")


if __name__ == "__main__":
  try:
    main()
  except errors.InputError as error:
    sys.exit(str(error))
