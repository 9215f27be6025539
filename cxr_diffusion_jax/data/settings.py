"""Which X-rays a run reads, and where its records and columns are kept.

RECORDS_DIR/NAME-HASH/SIZE/                     records, see `data.records`
RECORDS_DIR/NAME-HASH/SIZE/columns/NAME/        ELIXR columns joined to them
RECORDS_DIR/NAME-HASH/SIZE/clip-HASH/columns/   the columns of one CLIP
RECORDS_DIR/NAME-HASH/SIZE/standin_clip/         the stand-in encoder
"""

import dataclasses
import glob
import hashlib
import json
import os
import pathlib

from etils import epath

from cxr_diffusion_jax import artifacts, errors, naming
from cxr_diffusion_jax.data import captions as captions_lib
from cxr_diffusion_jax.data import images


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
  """Which X-rays a run reads, and how they become records.

  Attributes:
    root: the dataset's folder or bucket, such as a tree with `original/` and
      `Data_Entry_2017.csv`.
    source: module of `data/sources/` that reads it.
    image_size: side of the square images, in pixels.
    records_dir: folder of this machine for the records, columns and stand-ins of all
      datasets.
    resize: 'crop' (centre) or 'pad', if an image is not square.
    split: 'auto' (the tree's lists, else by patient hash), 'official' or 'hash'.
    validation_fraction: part of the training patients kept for validation.
    train_on_expert: train on patients of Google's expert test sets too.
    missing: 'error' or 'drop': what to do with rows without image or embedding.
    phantom_images: number of phantoms to generate at `root` if it has no dataset; 0 for
      none.
    phantom_seed: seed of the phantoms.
    phantom_visits: mean number of images of a phantom patient; 0 for 1 to 4, 1.8 on
      average. NIH has 3.6.
    standin: if the tree has no ELIXR embeddings, train stand-in encoders on its images
      and compute embeddings with them.
    standin_steps: updates of the stand-in training.
    prompts: 'labels' to write a prompt for each image from its labels and boxes,
      'report' to take the column `report` of the tree's Data_Entry CSV.
    prompt_seed: chooses the phrasings.
    captions: prompts of a training image, of which each step draws one: its full prompt
      and others in other phrasings, which leave out attributes. Reports, and embeddings
      that are files of the dataset, have one.
    caption_drop: probability that a caption other than the full prompt leaves out an
      attribute: findings, sides, view, age, sex; the path `findings` leaves out labels
      at the same rate.
    augment: share of the training images that are rotated by up to 5 degrees, shifted
      by up to 4 % and changed in contrast by up to 10 %, which the network is given as
      a condition; never flipped. Not for precomputed latents.
    num_workers: number of reader processes; 0 reads in threads of this process.
  """

  root: str
  image_size: int
  source: str = "nih"
  records_dir: str = "records"
  resize: str = "crop"
  split: str = "auto"
  validation_fraction: float = 0.05
  train_on_expert: bool = False
  missing: str = "error"
  phantom_images: int = 0
  phantom_seed: int = 0
  phantom_visits: float = 0.0
  standin: bool = False
  standin_steps: int = 800
  prompts: str = "labels"
  prompt_seed: int = 0
  captions: int = 1
  caption_drop: float = 0.0
  augment: float = 0.0
  num_workers: int = 0

  def __post_init__(self):
    if artifacts.is_remote(self.records_dir):
      raise errors.InputError(
        f"config.data.records_dir={self.records_dir}",
        "a folder of this machine, as records are read in place",
        "name a local folder; config.data.root and --workdir may be in a bucket",
      )
    choices = {
      "resize": images.MODES,
      "split": ("auto", "official", "hash"),
      "missing": ("error", "drop"),
      "prompts": ("labels", "report"),
    }
    for name, allowed in choices.items():
      naming.check(f"config.data.{name}", getattr(self, name), allowed)
    if not 0 <= self.augment <= 1:
      raise errors.InputError(f"config.data.augment={self.augment}", "0 to 1")
    captions_lib.check(self.captions, self.caption_drop)
    for name, least in (("image_size", 8), ("standin_steps", 1)):
      value = getattr(self, name)
      if value < least:
        raise errors.InputError(f"config.data.{name}={value}", f"{least} or more")
    if self.phantom_visits and self.phantom_visits < 1:
      raise errors.InputError(
        f"config.data.phantom_visits={self.phantom_visits:g}", "0, or 1 or more"
      )

  @property
  def location(self) -> str:
    """The dataset's folder as an absolute path, or its URL."""
    if artifacts.is_remote(self.root):
      return self.root.rstrip("/")
    return os.fspath(pathlib.Path(self.root).resolve())

  @property
  def tree_folder(self) -> pathlib.Path:
    """The folder below `records_dir` that belongs to this dataset alone.

    A dataset that was moved keeps its folder, as long as its own name is the same.
    """
    root = self.location
    name = root.rpartition("/")[2]
    mark = hashlib.sha256(root.encode()).hexdigest()[:8]
    records_dir = pathlib.Path(self.records_dir)
    folder = records_dir / f"{name}-{mark}"
    if not folder.is_dir():
      for other in sorted(records_dir.glob(f"{glob.escape(name)}-{'[0-9a-f]' * 8}")):
        if root == (recorded := _root_of(other)) or not epath.Path(recorded).exists():
          return other
    return folder

  @property
  def records_folder(self) -> pathlib.Path:
    """The folder of the records of this tree at this size."""
    return self.tree_folder / str(self.image_size)

  @property
  def standin_clip(self) -> pathlib.Path:
    """The folder of the stand-in CLIP, which sees images of one size."""
    return self.records_folder / "standin_clip"


def _root_of(folder: pathlib.Path) -> str:
  """Where the dataset of a folder below `records_dir` was last; "." if unknown."""
  for path in folder.glob("*/records.json"):
    return json.loads(path.read_text()).get("root", ".")
  return "."
