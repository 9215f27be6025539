"""Parameter paths as PyTorch's names, and kernels in its axes.

down_blocks_0/resnets_1/conv1/kernel  <->  down_blocks.0.resnets.1.conv1.weight

kernel of a convolution  [h w in out]  <->  weight [out in h w]
kernel of a dense layer  [in out]      <->  weight [out in]
scale, embedding         as they are   <->  weight
mean, var                as they are   <->  running_mean, running_var
"""

from collections.abc import Mapping
import re

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types

# An attention's layers in autoencoders that diffusers saved before 0.18.
_OLD_ATTENTION = {
  "query": "to_q",
  "key": "to_k",
  "value": "to_v",
  "proj_attn": "to_out.0",
}
_LEAVES = {
  **dict.fromkeys(("kernel", "scale", "embedding"), "weight"),
  "mean": "running_mean",
  "var": "running_var",
}
# Modules that are lists in PyTorch; linear_1 and branch7x7_1 are names.
_LISTS = re.compile(r"(blocks|resnets|attentions|samplers|to_out|net)_(\d+)$")

# Names listed for each kind of mistake; a wrong model would list hundreds.
_LISTED = 10


def torch_name(path: tuple[str, ...]) -> str:
  """PyTorch's name of the parameter at a path."""
  *modules, leaf = path
  parts = [_LISTS.sub(r"\1.\2", part) for part in modules]
  return ".".join([*parts, _LEAVES.get(leaf, leaf)])


def to_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
  """An array in PyTorch's axes."""
  if path[-1] != "kernel":
    return array
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def from_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
  """The inverse of `to_torch`."""
  if path[-1] != "kernel":
    return array
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def shapes_by_name(tree: types.Params) -> dict[str, tuple[int, ...]]:
  """Shapes of a tree of parameters by PyTorch's names, in its axes."""
  flat: artifacts.Json = traverse_util.flatten_dict(tree)
  # A view of one number has any shape without memory.
  return {
    torch_name(tuple(path)): to_torch(
      tuple(path), np.broadcast_to(np.float32(), leaf.shape)
    ).shape
    for path, leaf in flat.items()
  }


def modern(name: str) -> str:
  """A name as diffusers writes it now, given that or an older one."""
  parts = name.split(".")
  if parts[-4:-3] == ["attentions"]:
    parts[-2] = _OLD_ATTENTION.get(parts[-2], parts[-2])
  return ".".join(parts)


def check(
  stored: Mapping[str, tuple[int, ...]],
  shapes: types.Params,
  where: str,
  fix: str = "take weights and config.json from the same model",
) -> None:
  """Compares what a file holds with what a tree needs.

  Args:
    stored: shapes by PyTorch's names, as `modern` writes them.
    shapes: our tree, of anything with a shape.
    where: the file or folder, for messages; `fix` is what the user can do.

  Raises:
    errors.InputError: missing names, unknown names and wrong shapes, all at once.
  """
  needed = shapes_by_name(shapes)
  wrong = [
    f"{name} {list(stored[name])} for {list(needed[name])}"
    for name in sorted(needed.keys() & stored.keys())
    if tuple(stored[name]) != needed[name]
  ]
  mistakes = [
    f"{len(names)} {kind}: {', '.join(names[:_LISTED])}"
    + (", ..." if len(names) > _LISTED else "")
    for kind, names in (
      ("missing", sorted(needed.keys() - stored.keys())),
      ("unknown", sorted(stored.keys() - needed.keys())),
      ("of a wrong shape", wrong),
    )
    if names
  ]
  if mistakes:
    raise errors.InputError(
      f"weights in {where} that do not fit its network: {' | '.join(mistakes)}", fix=fix
    )


def to_tree(arrays: Mapping[str, np.ndarray], shapes: types.Params) -> types.Params:
  """Arrays by PyTorch's names as a tree of parameters; `check` them first."""
  return traverse_util.unflatten_dict(
    {
      path: np.asarray(from_torch(path, arrays[torch_name(path)]), order="C")
      for path in traverse_util.flatten_dict(shapes)
    }
  )


def fit(
  arrays: Mapping[str, np.ndarray], shapes: types.Params, where: str, fix: str
) -> types.Params:
  """A tree of the float32 parameters that a file holds; raises as `check`."""
  check({name: array.shape for name, array in arrays.items()}, shapes, where, fix)
  return jax.tree.map(
    lambda leaf: jnp.asarray(leaf, jnp.float32), to_tree(arrays, shapes)
  )


def from_tree(params: types.Params) -> artifacts.Json:
  """A tree of parameters as arrays by PyTorch's names."""
  return {
    torch_name(path): to_torch(path, np.asarray(array))
    for path, array in traverse_util.flatten_dict(params).items()
  }
