"""ELIXR files and rows that the tests of this folder make and compare."""

import pathlib

import h5py
import numpy as np

from cxr_diffusion_jax.encoders.elixr.files import reader as elixr


def stems_of(num: int, first: int = 0) -> np.ndarray:
  return np.array([f"{i:08d}_{i % 7:03d}" for i in range(first, first + num)])


def values_of(kind: str, num: int, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.standard_normal((num, *elixr.SHAPES[kind]), dtype=np.float32)


def write_h5(path: pathlib.Path, **datasets) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(path, "w") as file:
    for key, value in datasets.items():
      compression = "gzip" if np.ndim(value) > 1 else None
      file.create_dataset(
        key.replace("__", " "), data=value, compression=compression, compression_opts=1
      ) if compression else file.create_dataset(key.replace("__", " "), data=value)
  return path


def read_all(files: elixr.ElixrFiles, wanted=None) -> dict[str, np.ndarray]:
  rows = {}
  for stems, values in files.batches(wanted):
    assert values.shape == (len(stems), *files.shape)
    rows.update(zip(stems.tolist(), values, strict=True))
  return rows


def same(rows: dict[str, np.ndarray], stems, values) -> bool:
  return sorted(rows) == sorted(stems) and all(
    np.array_equal(rows[stem], value)
    for stem, value in zip(stems.tolist(), values, strict=True)
  )
