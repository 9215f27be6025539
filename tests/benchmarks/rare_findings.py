"""Makes a finding rare in a tree of phantoms, to measure `config.data.balance`.

A tree in NIH's layout --> the same without most training rows of one finding

  python -m cxr_diffusion_jax.prepare --config configs/phantom.py \
    --config.data.root=runs/phantoms --config.data.phantom_images=8000
  python tests/benchmarks/rare_findings.py --root runs/phantoms --out runs/rare \
    --finding Pneumothorax --keep 12
  for cap in 0 10 20; do
    python -m cxr_diffusion_jax.main --config configs/findings.py:dit_tiny \
      --config.data.root=runs/rare --config.data.balance=$cap --workdir runs/rare-$cap
  done
  python -m cxr_diffusion_jax.compare --metrics=adherence,memorisation,privacy \
    --workdirs runs/rare-0,runs/rare-10,runs/rare-20 --out runs/rare-report

Read `found` and `auroc` of the group "finding: Pneumothorax", and the copies. The test
split keeps all of its rows, so that the figures are of enough images.
"""

import argparse
import os
import pathlib
import shutil
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cxr_diffusion_jax.data import csv_table, csv_text
from cxr_diffusion_jax.data.sources.nih import layout, metadata
from cxr_diffusion_jax.data.sources.nih import source as nih


def make_rare(
  root: pathlib.Path, out: pathlib.Path, finding: str, keep: int
) -> tuple[int, int]:
  """Writes the tree; images are links. Returns training rows with it, and all."""
  tree = layout.find_tree(root)
  entries = metadata.read_entries(tree.data_entry)
  train = np.ones(len(entries.id), bool)
  if tree.test_list is not None:
    train = ~np.isin(entries.id, sorted(nih.read_list(tree.test_list)))
  present = entries.findings[:, entries.vocabulary.index(finding)] > 0.5
  removed = np.flatnonzero(train & present)[keep:]
  shutil.copytree(
    root, out, copy_function=lambda a, b: os.symlink(os.path.abspath(a), b)
  )
  path = out / tree.data_entry.name
  header, *rows = [row for _, row in csv_table.read_rows(path)]
  kept = [row for number, row in enumerate(rows) if number not in {*removed.tolist()}]
  path.unlink()
  path.write_text(csv_text.csv_text([header, *kept]), encoding="utf-8")
  return min(keep, int((train & present).sum())), int(train.sum()) - len(removed)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--root", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--finding", default="Pneumothorax")
  parser.add_argument("--keep", type=int, default=12)
  given = parser.parse_args()
  rare, num = make_rare(given.root, given.out, given.finding, given.keep)
  print(f"{given.out}: {given.finding} in {rare} of {num} training rows")


if __name__ == "__main__":
  main()
