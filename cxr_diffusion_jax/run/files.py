"""The two small files of a run beside its checkpoints: its config and its data.

WORKDIR/config.json    the config as it was built
WORKDIR/dataset.json   fingerprint, statistics and columns of the data
"""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

from cxr_diffusion_jax import errors


def write(
  workdir: pathlib.Path, config: Mapping[str, Any], dataset: Mapping[str, Any]
) -> None:
  """Writes both; a reader never sees half of one."""
  for name, value in (("config.json", config), ("dataset.json", dataset)):
    partial = workdir / f"{name}.partial"
    partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    os.replace(partial, workdir / name)


def read(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads both: (config, dataset).

  Raises:
    errors.InputError: the folder holds no run.
  """
  values = []
  for name in ("config.json", "dataset.json"):
    path = workdir / name
    try:
      values.append(json.loads(path.read_text()))
    except FileNotFoundError as error:
      raise errors.InputError(
        f"--workdir {workdir} has no {name}",
        "the folder of a run",
        "name the --workdir that main was called with",
      ) from error
    except json.JSONDecodeError as error:
      raise errors.InputError(f"{path} is not JSON: {error}") from error
  return values[0], values[1]
