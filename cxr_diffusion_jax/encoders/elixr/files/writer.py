"""Writes ELIXR embeddings in form A, streaming; used for stand-ins and phantoms.

batches --> ROOT/.elixr-form-a/... (hidden, removed on failure) --rename--> ROOT/elixr*/

  ROOT/elixrc/elixrc_<i>.h5                   Image Index, Embeddings [n 1 8 8 1376]
  ROOT/elixrb/{img_emb,txt_emb}/..._<i>.h5    Image Index, and the kind [n 32|128 768]
  ROOT/elixrb/contrastive/contrastive_<i>.h5  Image Index, and the contrastive kinds
  ROOT/datasets.json                          what there is, encoder, standin

Every .h5 file also has the attributes `standin` and `encoder`, so that a copied
stand-in is still marked as one. Real embeddings are never overwritten.
Layout: the public dataset Yasintuncer/nih-cxr14-elixr.
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import itertools
import json
import os
import pathlib
import shutil

import h5py
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.encoders.elixr.files.file import (
  SHAPES,
  check_finite,
  dataset,
  stem_of,
)

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

  The folders of these kinds appear whole or not at all and replace stand-ins. One
  folder, `contrastive`, is for three kinds: write these in one call.

  Args:
    root: the dataset tree.
    kinds: keys of `SHAPES`.
    num_rows: of all `batches`.
    batches: stems [k] and for every kind float values [k *shape].
    encoder: human-readable name of what made the values.
    standin: whether this project's stand-in encoder made them.
    dtype: on disk; the published files have float32.
    progress: called with the number of images written.

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
    written, shards = 0, _shards_of(num_rows)
    with contextlib.ExitStack() as stack:
      files: dict[tuple[str, int], h5py.File] = {}
      for folder, held in folders.items():
        (staging / folder).mkdir(parents=True)
        for shard, (low, high) in enumerate(shards):
          path = staging / folder / f"{pathlib.Path(folder).name}_{shard + 1}.h5"
          file = create_file(path, held, high - low, encoder, standin, dtype)
          files[folder, shard] = stack.enter_context(file)
      for stems, values in batches:
        for kind in kinds:
          check_finite(staging, stems, values[kind])
        for (folder, shard), file in files.items():
          low, high = shards[shard]
          first, last = max(written, low), min(written + len(stems), high)
          if first < last:
            rows = slice(first - written, last - written)
            part = {kind: values[kind][rows] for kind in folders[folder]}
            write_rows(file, first - low, stems[rows].tolist(), part)
        written += len(stems)
        progress("ELIXR files", written, num_rows)
    if written != num_rows:
      raise ValueError(f"got {written} rows, expected {num_rows}")
    _publish(root, staging, folders, _about(folders, encoder, standin, dtype))
  finally:
    shutil.rmtree(staging, ignore_errors=True)


def create_file(
  path: pathlib.Path,
  kinds: Sequence[str],
  num_rows: int,
  encoder: str,
  standin: bool,
  dtype: str,
) -> h5py.File:
  """Opens a new file of form A for `num_rows` rows, to be filled by `write_rows`."""
  file = h5py.File(path, "w")
  file.attrs["encoder"], file.attrs["standin"] = encoder, standin
  file.create_dataset("Image Index", (num_rows,), h5py.string_dtype())
  for kind in kinds:
    file.create_dataset(_key(kind), (num_rows, *_row_shape(kind)), dtype)
  return file


def write_rows(
  file: h5py.File,
  start: int,
  stems: Sequence[str],
  values: Mapping[str, np.ndarray],
  texts: Sequence[str] | None = None,
) -> None:
  """Writes rows of `create_file` from `start` on.

  `stems` are k names of images without ending, `values` of every kind of the file
  [k *shape], and `texts` what was encoded, kept beside the values of text kinds.
  """
  rows = slice(start, start + len(stems))
  if texts is not None:
    shape = dataset(file, "Image Index").shape
    kept = file.require_dataset("Text", shape, h5py.string_dtype())
    kept[rows] = np.array([text.encode() for text in texts], object)
  dataset(file, "Image Index")[rows] = np.array(
    [f"{stem}.png".encode() for stem in stems]
  )
  for kind, array in values.items():
    dataset(file, _key(kind))[rows] = array.reshape(-1, *_row_shape(kind))


def read_texts(path: pathlib.Path) -> dict[str, str | None]:
  """The stems of a file of form A, each with the text that was kept, if any was."""
  with h5py.File(path, "r") as file:
    stems = [stem_of(name) for name in dataset(file, "Image Index")[...]]
    if "Text" not in file:
      return dict.fromkeys(stems)
    return dict(zip(stems, list(dataset(file, "Text").asstr()[...]), strict=True))


def read_origin(path: pathlib.Path) -> tuple[str, bool]:
  """What made a file of `create_file`, and whether that is a stand-in."""
  with h5py.File(path, "r") as file:
    return str(file.attrs["encoder"]), bool(file.attrs["standin"])


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


def _shards_of(num_rows: int) -> list[tuple[int, int]]:
  """First row and end of each shard: row i of n is in shard i * 12 // n."""
  bounds = [-(-shard * num_rows // _NUM_SHARDS) for shard in range(_NUM_SHARDS + 1)]
  return list(itertools.pairwise(bounds))


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
) -> artifacts.Json:
  """The content of datasets.json: the published one's outline, and what we add."""
  datasets: artifacts.Json = {}
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
  about: artifacts.Json,
) -> None:
  """Moves the folders to their places; each is there whole or not at all."""
  for folder in folders:
    target = root / folder
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staging / folder, target)
  # A datasets.json that came with real embeddings describes those: it stays.
  path = root / "datasets.json"
  if not path.is_file() or "standin" in json.loads(path.read_text(encoding="utf-8")):
    artifacts.write_text(path, json.dumps(about, indent=1) + "\n")
