"""A run's config and dataset card: WORKDIR/config.json and WORKDIR/dataset.json."""

import os

from etils import epath

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.run import card as card_lib

# Version of the run folder's format; raised when older readers cannot read new runs.
FORMAT = 2

CONFIG, DATASET = "config.json", "dataset.json"


def write(
  folder: str | os.PathLike, config: artifacts.JsonMapping, card: card_lib.DatasetCard
) -> None:
  """Writes both files, each completely or not at all."""
  folder = epath.Path(folder)
  artifacts.write_json(folder / DATASET, {"format": FORMAT, **card.to_json()})
  artifacts.write_json(folder / CONFIG, {"format": FORMAT, **config})


def read(
  folder: str | os.PathLike,
) -> tuple[artifacts.Json, card_lib.DatasetCard]:
  """Reads both files: (config, card).

  Raises:
    errors.InputError: the folder holds no run, or one of a newer format.
  """
  config, values = (_read(epath.Path(folder) / name) for name in (CONFIG, DATASET))
  return config, card_lib.from_json(values, config)


def _read(path: epath.Path) -> artifacts.Json:
  if not path.exists():
    raise errors.InputError(
      f"{path.parent} has no {path.name}",
      "the folder of a run",
      "name the folder that main was called with",
    )
  values = artifacts.read_json(path)
  check_format(os.fspath(path), values)
  values.pop("format", None)
  return values


def check_format(place: str, values: artifacts.JsonMapping) -> None:
  """Raises errors.InputError for a file of a newer version."""
  version = values.get("format", 1)
  if version > FORMAT:
    raise errors.InputError(
      f"{place} has format {version}",
      f"format {FORMAT} or older",
      "update cxr_diffusion_jax to the version that trained this run",
    )
