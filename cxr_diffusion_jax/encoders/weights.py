"""Weights of frozen networks in a folder: located, read, and identified.

model.safetensors (PyTorch or Flax) | shards with an index | flax_model.msgpack
   --read--> {PyTorch's name: array in PyTorch's axes}
parameters --fingerprint--> 12 hexadecimal digits
files --mark--> 16 hexadecimal digits, without reading all of them
"""

from collections.abc import Callable, Collection, Iterator, Sequence
import contextlib
import hashlib
import pathlib

from flax import serialization, traverse_util
import jax
import numpy as np

from cxr_diffusion_jax import artifacts, checksums, errors, types
from cxr_diffusion_jax.data.columns import column as column_lib
from cxr_diffusion_jax.encoders import hub
from cxr_diffusion_jax.interop import names
from cxr_diffusion_jax.interop.safetensors_folder import (
  CONFIG,
  damaged,
  read_arrays,
  weight_files,
)

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
MSGPACK = "flax_model.msgpack"
FORMS = (*SAFETENSORS, MSGPACK)

# What the user can do with weights that are a pickle.
RESAVE = "save pytorch_model.bin again with save_pretrained(safe_serialization=True)"


def to_download(present: Collection[str]) -> list[str]:
  """Patterns of the first form of weights among the files of an id; [] for none."""
  weights = [file for file in FORMS if file in present][:1]
  if weights == [SAFETENSORS[1]]:
    weights.append("model-*.safetensors")
  return weights


def are_whole(folder: pathlib.Path) -> bool:
  """Says whether a folder has weights in one form, with all of its shards."""
  return (folder / MSGPACK).is_file() or any(
    (folder / form).is_file()
    and all(path.is_file() for path in weight_files(folder, (form,)))
    for form in SAFETENSORS
  )


def has_one_of(folder: pathlib.Path, forms: Sequence[Sequence[str]]) -> bool:
  """Says whether a folder has all files of one of these forms."""
  return any(all((folder / file).is_file() for file in form) for form in forms)


@contextlib.contextmanager
def described(
  folder: artifacts.PathLike,
  expected: str = "files as save_pretrained writes them",
  fix: str = "copy them again",
) -> Iterator[None]:
  """Turns what libraries raise for settings that no model has into one line.

  Raises:
    errors.InputError: the code under it raised anything but an InputError.
  """
  try:
    yield
  except errors.InputError:
    raise
  # Whatever a network or a processor does with sizes that make no sense.
  except Exception as error:
    raise errors.InputError(
      f"the files in {folder} describe no model: {' '.join(str(error).split())}",
      expected,
      fix,
    ) from error


def absent(folder: pathlib.Path, fix: str = "") -> errors.InputError:
  """The error of a folder without weights."""
  return errors.InputError(
    f"no weights in {folder}", f"one of {', '.join(FORMS)}", fix or RESAVE
  )


def read(folder: pathlib.Path, fix: str = "") -> artifacts.Json:
  """Reads all arrays of the first form of weights in a folder, by PyTorch's names.

  Args:
    fix: what the user can do where the folder has none.

  Raises:
    errors.InputError: no weights in a readable form, or a damaged file; also one that
      is not of the weights.
  """
  checksums.check_model(folder)
  stored = _read(folder, fix)
  if any(name.endswith(".kernel") for name in stored):
    # Flax's own names and axes.
    stored = names.from_tree(traverse_util.unflatten_dict(stored, sep="."))
  return stored


def _read(folder: pathlib.Path, fix: str) -> artifacts.Json:
  if any((folder / form).is_file() for form in SAFETENSORS):
    return read_arrays(weight_files(folder, SAFETENSORS))
  path = folder / MSGPACK
  if not path.is_file():
    raise absent(folder, fix)
  try:
    tree = serialization.msgpack_restore(path.read_bytes())
  except ValueError as error:
    raise damaged(path) from error
  return traverse_util.flatten_dict(tree, sep=".")


def fingerprint(params: types.Params, facts: str = "") -> str:
  """Returns 12 hexadecimal digits of parameters, and of facts beside them."""
  digest = hashlib.sha256(facts.encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()[:12]


def millions(params: types.Params) -> str:
  """The number of parameters, as descriptions state it: '427.6M'."""
  return f"{sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6:.1f}M"


def mark(folder: pathlib.Path) -> str:
  """Returns 16 hexadecimal digits that change when a network's files do.

  Only samples of the files are read.
  """
  digest = hashlib.sha256()
  for pattern in ("*.json", "*.txt", "*.safetensors", "*.msgpack"):
    for file in sorted(folder.glob(pattern)):
      digest.update(f"{file.name} {column_lib.files_fingerprint([file])}\n".encode())
  return digest.hexdigest()[:16]


def find_config(name: str, what: str, example: str) -> pathlib.Path:
  """Returns config.json alone of a model, from the hub if need be; see `resolve`."""

  def fetch() -> pathlib.Path:
    return hub.cached(name, (CONFIG,)) or hub.download_file(name, CONFIG).parent

  return resolve(name, what, example, fetch) / CONFIG


def resolve(
  name: str, what: str, example: str, fetch: Callable[[], pathlib.Path]
) -> pathlib.Path:
  """Returns the folder of a model with config.json; see `hub.resolve`.

  Args:
    what: the kind of model, for messages.
    example: an id on the hub, for messages.
  """
  return hub.resolve(
    name,
    what,
    f"a folder with {CONFIG}, or an id such as {example!r}",
    "name another folder, or use the stand-in:"
    " --config.conditioning.encoder=standin of `prepare --standin`",
    local=lambda folder: folder if (folder / CONFIG).is_file() else None,
    fetch=fetch,
  )
