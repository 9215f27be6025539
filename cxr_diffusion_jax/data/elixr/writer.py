"""Writes ELIXR embeddings in form A, streaming: what stand-ins and phantoms have.

batches --> ROOT/.elixr-form-a/... (hidden, removed on failure) --rename--> ROOT/elixr*/

  ROOT/elixrc/elixrc_<i>.h5                   Image Index, Embeddings [n 1 8 8 1376]
  ROOT/elixrb/{img_emb,txt_emb}/..._<i>.h5    Image Index, and the kind [n 32|128 768]
  ROOT/elixrb/contrastive/contrastive_<i>.h5  Image Index, and the contrastive kinds
  ROOT/datasets.json                          what there is, encoder, standin

Every .h5 file carries the attributes `standin` and `encoder` as well, so that a
stand-in says so wherever it is copied to. Real embeddings are never overwritten.
Layout: the public dataset Yasintuncer/nih-cxr14-elixr.
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import shutil
from typing import Any

import h5py
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import atomic_file
from cxr_diffusion_jax.data.elixr.file import SHAPES, check_finite

_NUM_SHARDS = 12
_STAGING = ".elixr-form-a"


def write_form_a(
  root: str | os.PathLike,
  *,
  kinds: Sequence[str],
  num_rows: int,
  batches: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]],
  encoder: str,
  standin: bool,
  dtype: str = "float32",
  progress: types.Progress = types.no_progress,
) -> None:
  """Writes kinds of embedding under `root` as twelve .h5 files a folder.

  The folders of these kinds appear whole or not at all. Stand-ins that are there
  already are replaced; `contrastive` is one folder for three kinds, so write the three
  that belong together in one call.

  Args:
    root: the dataset tree.
    kinds: keys of `SHAPES`.
    num_rows: how many images `batches` will bring in all.
    batches: stems [k] and for every kind float values [k *shape].
    encoder: what made the values, for people to read.
    standin: whether this project's stand-in encoder made them.
    dtype: on disk; the published files have float32.
    progress: told the number of images written.

  Raises:
    InputError: embeddings that are not stand-ins are there already, or a value is not
      finite.
    ValueError: `batches` brought another number of rows, or another shape.
  """
  root = pathlib.Path(root)
  folders = _folders_of(kinds)
  for folder in folders:
    _check_replaceable(root / folder)
  staging = root / _STAGING
  shutil.rmtree(staging, ignore_errors=True)
  try:
    written = 0
    with contextlib.ExitStack() as stack:
      shards = _Shards(staging, folders, num_rows, encoder, standin, dtype, stack)
      for stems, values in batches:
        for kind in kinds:
          check_finite(staging, stems, values[kind])
        shards.write(written, stems, values)
        written += len(stems)
        progress("ELIXR files", written, num_rows)
    if written != num_rows:
      raise ValueError(f"{written} rows came, {num_rows} were announced")
    _publish(root, staging, folders, _about(folders, encoder, standin, dtype))
  finally:
    shutil.rmtree(staging, ignore_errors=True)


def _folders_of(kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """The folders of `kinds`, each with the kinds that it holds."""
  if not kinds or set(kinds) - set(SHAPES):
    raise ValueError(f"kinds {sorted(kinds)}: some of {sorted(SHAPES)} wanted")
  folders: dict[str, tuple[str, ...]] = {}
  for kind in kinds:
    folder = "elixrb/contrastive" if "contrastive" in kind else f"elixrb/{kind}"
    folder = "elixrc" if kind == "elixrc" else folder
    folders[folder] = (*folders.get(folder, ()), kind)
  return folders


class _Shards:
  """The open .h5 files: row i of n goes to shard i * 12 // n of every folder."""

  def __init__(
    self,
    staging: pathlib.Path,
    folders: Mapping[str, tuple[str, ...]],
    num_rows: int,
    encoder: str,
    standin: bool,
    dtype: str,
    stack: contextlib.ExitStack,
  ):
    self._folders = folders
    self._bounds = [
      -(-shard * num_rows // _NUM_SHARDS) for shard in range(_NUM_SHARDS + 1)
    ]
    self._files: dict[tuple[str, int], h5py.File] = {}
    for folder, kinds in folders.items():
      (staging / folder).mkdir(parents=True)
      for shard in range(_NUM_SHARDS):
        path = staging / folder / f"{pathlib.Path(folder).name}_{shard + 1}.h5"
        file = stack.enter_context(h5py.File(path, "w"))
        file.attrs["encoder"], file.attrs["standin"] = encoder, standin
        size = self._bounds[shard + 1] - self._bounds[shard]
        file.create_dataset("Image Index", (size,), h5py.string_dtype())
        for kind in kinds:
          file.create_dataset(_key(kind), (size, *_row_shape(kind)), dtype)
        self._files[folder, shard] = file

  def write(
    self, start: int, stems: np.ndarray, values: Mapping[str, np.ndarray]
  ) -> None:
    """Writes the rows from `start` on."""
    names = np.array([f"{stem}.png".encode() for stem in stems])
    if start + len(names) > self._bounds[-1]:
      raise ValueError(f"more than the announced {self._bounds[-1]} rows came")
    for shard, (low, high) in enumerate(
      zip(self._bounds[:-1], self._bounds[1:], strict=True)
    ):
      first, last = max(start, low), min(start + len(names), high)
      if first >= last:
        continue
      there, here = slice(first - low, last - low), slice(first - start, last - start)
      for folder, kinds in self._folders.items():
        file = self._files[folder, shard]
        file["Image Index"][there] = names[here]
        for kind in kinds:
          file[_key(kind)][there] = values[kind][here].reshape(-1, *_row_shape(kind))


def _key(kind: str) -> str:
  return "Embeddings" if kind == "elixrc" else kind


def _row_shape(kind: str) -> tuple[int, ...]:
  """As published: ELIXR-C's maps kept the batch axis of 1."""
  return (1, *SHAPES[kind]) if kind == "elixrc" else SHAPES[kind]


def _check_replaceable(folder: pathlib.Path) -> None:
  """Raises InputError when `folder` has anything but stand-ins."""
  for path in sorted(folder.iterdir()) if folder.is_dir() else ():
    is_standin = False
    if path.suffix == ".h5":
      with contextlib.suppress(OSError), h5py.File(path, "r") as file:
        is_standin = bool(file.attrs.get("standin", False))
    if not is_standin:
      raise errors.InputError(
        f"{path} is in the way",
        "no embeddings there, or stand-ins only",
        "move it out of the tree, or go on with what is there",
      )


def _about(
  folders: Mapping[str, tuple[str, ...]], encoder: str, standin: bool, dtype: str
) -> dict[str, Any]:
  """The content of datasets.json: the published one's outline, and what we add."""
  datasets: dict[str, Any] = {}
  for folder, kinds in folders.items():
    features = {"Image Index": {"dtype": "string", "shape": []}}
    for kind in kinds:
      features[_key(kind)] = {"dtype": dtype, "shape": list(_row_shape(kind))}
    *parents, name = folder.split("/")
    level = datasets
    for parent in parents:
      level = level.setdefault(parent, {})
    level[name] = {"type": "dataset", "features": features}
  return {
    "info": {"name": "ELIXR embeddings of NIH ChestX-ray14 images"},
    "standin": standin,
    "encoder": encoder,
    "said_in_files": True,
    "datasets": datasets,
  }


def _publish(
  root: pathlib.Path,
  staging: pathlib.Path,
  folders: Mapping[str, tuple[str, ...]],
  about: dict[str, Any],
) -> None:
  """Moves the folders to their places; each is there whole or not at all."""
  for folder in folders:
    target = root / folder
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staging / folder, target)
  # A datasets.json that came with real embeddings tells of those: it stays.
  path = root / "datasets.json"
  if not path.is_file() or "standin" in json.loads(path.read_text(encoding="utf-8")):
    atomic_file.write_text(path, json.dumps(about, indent=1) + "\n")
