"""The state of a training that has not ended, kept so that it can be resumed.

parameters, optimizer state, losses --every 30 s--> PATH, an .npz
the trained network is written -> PATH is removed

A resumed training makes the same updates as an undisturbed one.
"""

import dataclasses
import json

from absl import logging
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, disk, errors, types

_FACTS = "facts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unfinished:
  """A file with the state of one training.

  Attributes:
    mark: identifies all inputs of the training; another state is not resumed.
  """

  path: artifacts.PathLike
  mark: str

  def write(self, tree: types.Params, facts: artifacts.JsonMapping) -> None:
    """Replaces the saved state by a pytree of arrays and plain values.

    Raises:
      errors.InputError: the disk is full or cannot be written to.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    text = json.dumps({**facts, "mark": self.mark}).encode()
    arrays = {f"leaf_{i:05d}": leaf for i, leaf in enumerate(leaves)}
    with disk.reporting(self.path):
      artifacts.write_npz(self.path, arrays | {_FACTS: np.frombuffer(text, np.uint8)})

  def read(self) -> tuple[list[jax.Array], artifacts.Json] | None:
    """The leaves and values of `write`; None if there are none of this training."""
    if not epath.Path(self.path).exists():
      return None
    try:
      arrays = checked_files.read_npz(self.path)
      facts = json.loads(arrays.pop(_FACTS, np.frombuffer(b"{}", np.uint8)).tobytes())
    except (errors.InputError, ValueError) as error:
      logging.warning("%s; the training starts from the beginning", error)
      return None
    if facts.pop("mark", None) != self.mark:
      return None
    # Copies: a step consumes them.
    return [jnp.array(arrays[name]) for name in sorted(arrays)], facts

  def remove(self) -> None:
    """Removes the file, after the result of the training is saved."""
    epath.Path(self.path).unlink(missing_ok=True)
