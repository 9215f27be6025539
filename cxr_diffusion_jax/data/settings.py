"""Which X-rays a run reads, and where what is made of them is kept.

RECORDS_DIR/TREE-HASH/SIZE/                     records, see `data.records`
RECORDS_DIR/TREE-HASH/SIZE/columns/NAME/        ELIXR columns joined to them
RECORDS_DIR/TREE-HASH/SIZE/clip-HASH/columns/   the columns of one CLIP
RECORDS_DIR/TREE-HASH/SIZE/standin_clip/, standin/    stand-in encoders and their files
"""

import dataclasses
import hashlib
import pathlib

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.extras.phantom import tree as phantom_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
  """Which X-rays a run reads, and how they become records.

  Attributes:
    root: the tree (`original/`, `Data_Entry_2017.csv`, ...).
    image_size: side of the square images, in pixels.
    records_dir: where records, columns and stand-ins of all trees are kept.
    resize: 'crop' (centre) or 'pad', when an image is not square.
    split: 'auto' (the tree's lists, else by patient hash), 'official' or 'hash'.
    validation_fraction: part of the training patients kept for validation.
    train_on_expert: train on patients of Google's expert test sets too.
    missing: 'error' or 'drop': what to do with rows without image or embedding.
    phantom_images: make a tree of so many phantoms at `root` if there is none; 0 to
      make none.
    phantom_seed: their seed.
    standin: where the tree has no ELIXR embeddings, train stand-in encoders on its
      images and make them from those.
    standin_steps: updates of that training.
    prompts: 'labels' to write a prompt for each image from its labels and boxes,
      'report' to take the column `report` of the tree's Data_Entry CSV.
    prompt_seed: chooses the phrasings.
    num_workers: processes that read; 0 reads in threads of this one.
  """

  root: str
  image_size: int
  records_dir: str = "records"
  resize: str = "crop"
  split: str = "auto"
  validation_fraction: float = 0.05
  train_on_expert: bool = False
  missing: str = "error"
  phantom_images: int = 0
  phantom_seed: int = 0
  standin: bool = False
  standin_steps: int = 800
  prompts: str = "labels"
  prompt_seed: int = 0
  num_workers: int = 0

  def __post_init__(self):
    if self.missing not in ("error", "drop"):
      raise errors.InputError(f"config.data.missing={self.missing!r}", "error or drop")
    if self.image_size < 8:
      raise errors.InputError(f"config.data.image_size={self.image_size}", "8 or more")
    if self.prompts not in ("labels", "report"):
      raise errors.InputError(
        f"config.data.prompts={self.prompts!r}", "labels or report"
      )
    if self.standin_steps < 1:
      raise errors.InputError(
        f"config.data.standin_steps={self.standin_steps}", "1 or more"
      )

  @property
  def tree_folder(self) -> pathlib.Path:
    """The folder below `records_dir` that belongs to this tree alone."""
    root = pathlib.Path(self.root).resolve()
    mark = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    return pathlib.Path(self.records_dir) / f"{root.name}-{mark}"

  @property
  def records_folder(self) -> pathlib.Path:
    """The folder of the records of this tree at this size."""
    return self.tree_folder / str(self.image_size)

  def record_settings(self) -> records_lib.RecordSettings:
    return records_lib.RecordSettings(
      root=pathlib.Path(self.root),
      folder=self.records_folder,
      image_size=self.image_size,
      resize=self.resize,
      split=self.split,
      validation_fraction=self.validation_fraction,
      train_on_expert=self.train_on_expert,
      missing=self.missing,
    )

  @property
  def standin_clip(self) -> pathlib.Path:
    """The folder of the stand-in CLIP, which sees images of one size."""
    return self.records_folder / "standin_clip"

  @property
  def standin_root(self) -> pathlib.Path:
    """Where stand-in embeddings stand: in the tree if that is our own, of this size."""
    if phantom_tree.image_size_of(self.root) == self.image_size:
      return pathlib.Path(self.root)
    return self.records_folder / "standin"
