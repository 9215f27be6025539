"""A user's network in a file, and the JSON file next to it that says how to use it.

images uint8 [b h w 1] --resize, antialiased--> [b size size 1]
  --(x / 255 - mean) / std--> [b size size c], c 1 or 3 --network--> outputs

NAME.onnx or NAME.safetensors is read with NAME.json: the size of images, and mean and
std as one number or one of each channel. Each kind of network adds its own keys.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib

import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib

_KEYS = ("size", "mean", "std")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Description:
  """What the JSON file says.

  Attributes:
    path: of the JSON file.
    network: file of the network.
    size: pixels of a side that the network receives.
    mean: [1] or [c] float32, as `std`.
    values: the keys of this kind of network.
  """

  path: pathlib.Path
  network: pathlib.Path
  size: int
  mean: np.ndarray
  std: np.ndarray
  values: artifacts.Json

  def normalised(self, images: types.Array, channels: int) -> types.Array:
    """Images [b h w 1] as the network's input [b size size channels] float32."""
    grey = jnp.asarray(images, jnp.float32)
    x = extractor_lib.resize(grey, self.size, "linear") / 255
    return (jnp.repeat(x, channels, axis=-1) - self.mean) / self.std

  def check_channels(self, channels: object) -> None:
    """Raises ValueError unless a network's channels are 1 or 3, as mean and std."""
    if channels not in (1, 3) or not {self.mean.size, self.std.size} <= {1, channels}:
      raise ValueError(
        f"{channels} channels, {self.mean.size} means, {self.std.size} std"
      )

  @property
  def fingerprint(self) -> str:
    """Identifies both files."""
    facts = repr((extractor_lib.FORMAT, self.path.read_text())).encode()
    return hashlib.sha256(facts + self.network.read_bytes()).hexdigest()[:16]

  def refused(self, example: str) -> errors.InputError:
    """The error for values that are none of this kind of network."""
    return errors.InputError(f"{self.path}: {str(self.values)[:200]}", example)


def read(
  location: str, suffixes: Sequence[str], keys: Sequence[str], example: str
) -> Description:
  """Reads the JSON file next to a network.

  Args:
    location: the network's file.
    suffixes: those it may have.
    keys: of this kind of network, all of which are needed.
    example: of a JSON file, for errors.

  Raises:
    errors.InputError: a file is absent or of another suffix, or keys or values that do
      not fit.
  """
  network = pathlib.Path(location).expanduser()
  if network.suffix not in suffixes or not network.is_file():
    names = " or ".join(f"NAME{suffix}" for suffix in suffixes)
    raise errors.InputError(f"{location}", f"a file {names} that exists")
  path = network.with_suffix(".json")
  values = artifacts.read_json(path)
  try:
    if sorted(values) != sorted((*_KEYS, *keys)):
      raise ValueError
    mean, std = (np.array(values[k], np.float32).reshape(-1) for k in ("mean", "std"))
    if not (isinstance(values["size"], int) and values["size"] > 0):
      raise ValueError
    if not (np.isfinite(mean).all() and (std > 0).all() and mean.size and std.size):
      raise ValueError
  except (TypeError, ValueError) as error:
    raise errors.InputError(f"{path}: {str(values)[:200]}", example) from error
  return Description(
    path=path,
    network=network,
    size=values["size"],
    mean=mean,
    std=std,
    values={key: values[key] for key in keys},
  )
