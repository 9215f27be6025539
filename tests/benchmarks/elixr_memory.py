"""Peak memory of ELIXR-C files of any size on their way into a column.

make an .h5 file of form A  --child process-->  find_elixr, write_column, read back

  python tests/benchmarks/elixr_memory.py --folder /tmp/elixr_memory --compression gzip

The peak is the child's VmHWM (its resident set at its largest, page cache not counted);
it must stay below 1 GB. Making the file is another child, as it is no part of it.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LIMIT_MB = 1000
ROW_SHAPE = (1, 8, 8, 1376)
ROW_BYTES = 4 * 8 * 8 * 1376


def make(folder: pathlib.Path, num_rows: int, compression: str) -> None:
  """Writes rows of noise, chunked as h5py chooses unless contiguous."""
  import h5py
  import numpy as np

  (folder / "elixrc").mkdir(parents=True)
  rng = np.random.default_rng(0)
  options = (
    {} if compression == "none" else {"chunks": True, "compression": compression}
  )
  if compression == "gzip":
    options["compression_opts"] = 1
  with h5py.File(folder / "elixrc/elixrc_1.h5", "w") as file:
    names = [f"{row:08d}_000.png" for row in range(num_rows)]
    file.create_dataset("Image Index", data=names)
    values = file.create_dataset("Embeddings", (num_rows, *ROW_SHAPE), "f4", **options)
    step = values.chunks[0] if values.chunks else 500
    for start in range(0, num_rows, step):
      num = min(step, num_rows - start)
      # Two decimals, so that compression has something to do.
      block = rng.standard_normal((num, *ROW_SHAPE), np.float32).round(2)
      values[start : start + num] = block


def stream(folder: pathlib.Path, num_rows: int) -> None:
  """Writes the column with the rows in another order; prints peak and rates."""
  import numpy as np

  from cxr_diffusion_jax.data.columns import writer as column_writer
  from cxr_diffusion_jax.encoders.elixr.files import reader as elixr

  before = peak_mb()
  files = elixr.find_elixr(folder, "elixrc")
  ids = np.array([f"{row:08d}_000" for row in range(num_rows)])
  order = np.random.default_rng(1).permutation(num_rows)
  start = time.perf_counter()
  column = column_writer.write_column(
    folder / "records",
    ids={"train": ids[order]},
    name="elixrc",
    shape=files.shape,
    encoder=files.encoder,
    standin=files.standin,
    fingerprint=files.fingerprint,
    batches=files.batches,
  )
  seconds = time.perf_counter() - start
  gigabytes = num_rows * ROW_BYTES / 1e9
  peak = peak_mb()
  print(f"{gigabytes:.2f} GB in {seconds:.1f} s, {gigabytes / seconds * 1e3:.0f} MB/s")
  print(f"peak {peak:.0f} MB, of which {before:.0f} MB before the work")

  source = column.source("train")
  picked = np.random.default_rng(2).permutation(num_rows)[:2000]
  start = time.perf_counter()
  total = sum(float(source[int(row)][0, 0, 0]) for row in picked)
  rate = len(picked) / (time.perf_counter() - start)
  print(f"random rows of {list(files.shape)} float16: {rate:.0f} rows/s ({total:.1f})")
  if peak >= LIMIT_MB:
    raise SystemExit(f"peak {peak:.0f} MB is not below {LIMIT_MB} MB")


def peak_mb() -> float:
  """This process's largest resident set so far, in MB."""
  status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
  line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
  return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--gigabytes", type=float, default=3.0)
  parser.add_argument("--compression", choices=("none", "gzip"), default="none")
  parser.add_argument("--phase", choices=("all", "make", "stream"), default="all")
  flags = parser.parse_args()
  num_rows = int(flags.gigabytes * 1e9 / ROW_BYTES)
  if flags.phase == "make":
    make(flags.folder, num_rows, flags.compression)
  elif flags.phase == "stream":
    stream(flags.folder, num_rows)
  else:
    if flags.folder.exists():
      raise SystemExit(f"{flags.folder} is there already; name a folder to be made")
    try:
      for phase in ("make", "stream"):
        command = [sys.executable, __file__, *sys.argv[1:], "--phase", phase]
        subprocess.run(command, cwd=REPOSITORY, check=True, env=environment())
    finally:
      shutil.rmtree(flags.folder, ignore_errors=True)


def environment() -> dict[str, str]:
  """The children import the package from this checkout."""
  return {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}


if __name__ == "__main__":
  main()
