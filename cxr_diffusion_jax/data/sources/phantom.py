"""Trees of computed chest X-rays: laid out as NIH's, marked by a file `phantom.json`.

The generator is in `extras/phantom`, which is imported only to make a tree.
"""

import importlib
import json
import os

from etils import epath
from PIL import Image

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.artifacts import is_remote
from cxr_diffusion_jax.data.sources import nih
from cxr_diffusion_jax.data.sources.nih import layout
from cxr_diffusion_jax.progress import Progress, no_progress

SETTINGS_FILE = "phantom.json"

GENERATION_FILE = layout.GENERATION_FILE

# The key of a PNG's text that says what the image shows.
TEXT_KEY = "phantom"

# What the images of such a tree are, see `origin_of`.
ORIGIN = "phantom images"

VOCABULARY = nih.VOCABULARY
read_table = nih.read_table
read_vocabulary = nih.read_vocabulary


def is_phantom_tree(root: str | os.PathLike) -> bool:
  """Whether `root` is a tree of phantoms, complete or not."""
  return (epath.Path(root) / SETTINGS_FILE).exists()


def origin_of(root: str | os.PathLike) -> str:
  """What the images of a tree are: phantom, generated or real images."""
  if is_phantom_tree(root):
    return ORIGIN
  root = epath.Path(root)
  folder = root.parent if root.suffix else root
  if (folder / GENERATION_FILE).exists():
    return "generated images"
  return "real images"


def read_facts(path: str | os.PathLike) -> artifacts.Json:
  """What a phantom's PNG states of its image; {} for other images."""
  with Image.open(path) as image:
    return json.loads(image.info.get(TEXT_KEY, "{}"))


def make_tree(
  root: str | os.PathLike,
  *,
  num_images: int,
  size: int,
  seed: int,
  visits: float = 0.0,
  progress: Progress = no_progress,
) -> None:
  """Makes a phantom tree unless it is complete, see `extras.phantom.tree`."""
  if is_remote(root):
    raise errors.InputError(
      f"config.data.root={os.fspath(root)} with config.data.phantom_images",
      "a folder of this machine",
      "make the tree there, then copy it to the bucket",
    )
  generator = importlib.import_module("cxr_diffusion_jax.extras.phantom.tree")
  generator.write_tree(
    root, num_images=num_images, size=size, seed=seed, visits=visits, progress=progress
  )
