"""Which X-rays a run reads, and where its records and columns are kept.

RECORDS_DIR/NAME-HASH/SIZE/                     records, see `data.records`
RECORDS_DIR/NAME-HASH/SIZE/columns/NAME/        ELIXR columns joined to them
RECORDS_DIR/NAME-HASH/SIZE/clip-HASH/columns/   the columns of one CLIP
RECORDS_DIR/NAME-HASH/SIZE/standin_clip/         the stand-in encoder
"""

import dataclasses
import glob
import hashlib
import os
import pathlib

from etils import epath

from cxr_diffusion_jax import artifacts, checked_files, errors, naming
from cxr_diffusion_jax.data import balance, images, labels
from cxr_diffusion_jax.data import captions as captions_lib
from cxr_diffusion_jax.data.sources import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
  """Which X-rays a run reads, and how they become records.

  Attributes:
    root: the dataset's folder or bucket, such as a tree with `original/` and
      `Data_Entry_2017.csv`; one for each source, separated by commas.
    source: module of `data/sources/` that reads it; several joined by `+`, such as
      `nih+chexpert`.
    columns: columns of the source `table` that have other names, such as
      `image=Path,patient=Subject,findings=Edema|Effusion`.
    views: which of PA, AP, unknown and lateral are kept; the view of lateral images is
      unknown to the network.
    rename: findings that get another name, such as `Lung_Opacity=Airspace_Opacity`;
      several with one new name are joined, those without one are left out.
    vocabulary: the findings that are kept, after renaming, such as `Edema,Effusion`;
      empty for all.
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
      'report' to take its radiologist's report; rows without one count as missing,
      or with 'report_or_labels' have a prompt of their labels.
    prompt_seed: chooses the phrasings.
    captions: prompts of a training image, of which each step draws one: its full prompt
      and others in other phrasings, which leave out attributes; of a report, some of
      its sentences. Embeddings that are files of the dataset have one.
    caption_drop: probability that a caption other than the full prompt leaves out an
      attribute: findings, sides, view, age, sex; the path `findings` leaves out labels
      at the same rate.
    balance: training rows of rare findings are drawn more often, in proportion to the
      inverse frequency of a row's rarest finding, at most this many times as often as
      rows without a finding; 0 for all rows equally often.
    augment: share of the training images that are rotated by up to 5 degrees, shifted
      by up to 4 % and changed in contrast by up to 10 %, which the network is given as
      a condition; never flipped. Not for precomputed latents.
    num_workers: number of reader processes; 0 reads in threads of this process.
  """

  root: str
  image_size: int
  source: str = "nih"
  columns: str = ""
  views: str = "PA,AP,unknown"
  rename: str = ""
  vocabulary: str = ""
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
  balance: float = 0.0
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
      "prompts": ("labels", "report", "report_or_labels"),
    }
    for name, allowed in choices.items():
      naming.check(f"config.data.{name}", getattr(self, name), allowed)
    for view in self.chosen_views:
      naming.check("config.data.views", view, base.VIEWS)
    if "," in self.source:
      raise errors.InputError(
        f"config.data.source={self.source}",
        "sources joined by +",
        f"--config.data.source={'+'.join(_listed(self.source))}",
      )
    num_roots, num_sources = len(self.roots), len(self.source.split("+"))
    if num_roots != num_sources:
      raise errors.InputError(
        f"config.data.root={self.root} with config.data.source={self.source}",
        f"{num_sources} folders, separated by commas",
      )
    if len({*map(_location, self.roots)}) < num_roots:
      raise errors.InputError(
        f"config.data.root={self.root}",
        "different folders, as patients of two sources are never the same",
      )
    names = [labels.plain(name) for name in self.chosen_findings]
    targets = {labels.plain(name) for name in self.renamed.values()}
    if len({*names}) < len(names) or labels.plain(labels.NO_FINDING) in {
      *names,
      *targets,
    }:
      raise errors.InputError(
        f"config.data.vocabulary={self.vocabulary}, rename={self.rename}",
        f"different findings, of which {labels.NO_FINDING} is none",
      )
    if not 0 <= self.augment <= 1:
      raise errors.InputError(f"config.data.augment={self.augment}", "0 to 1")
    captions_lib.check(self.captions, self.caption_drop)
    balance.check(self.balance)
    for name, least in (("image_size", 8), ("standin_steps", 1)):
      value = getattr(self, name)
      if value < least:
        raise errors.InputError(f"config.data.{name}={value}", f"{least} or more")
    if self.phantom_visits and self.phantom_visits < 1:
      raise errors.InputError(
        f"config.data.phantom_visits={self.phantom_visits:g}", "0, or 1 or more"
      )

  @property
  def roots(self) -> tuple[str, ...]:
    """The folder or URL of each source, in the order of `source`."""
    return _listed(self.root) if "+" in self.source else (self.root,)

  @property
  def nih_root(self) -> str | None:
    """The folder in NIH's layout, which may hold Google's labels too; None without."""
    modules = self.source.split("+")
    of_nih = (
      root
      for module, root in zip(modules, self.roots, strict=True)
      if module in ("nih", "phantom")
    )
    return next(of_nih, None)

  @property
  def source_names(self) -> tuple[str, ...]:
    """A name for each root: its source, with a number from the second time on."""
    names: list[str] = []
    modules = self.source.split("+")
    for place, module in enumerate(modules):
      count = modules[: place + 1].count(module)
      names.append(module if count == 1 else f"{module}{count}")
    return tuple(names)

  @property
  def chosen_views(self) -> tuple[str, ...]:
    """The views that are kept."""
    return _listed(self.views)

  @property
  def chosen_findings(self) -> tuple[str, ...]:
    """The findings that are kept; () for all."""
    return _listed(self.vocabulary)

  @property
  def renamed(self) -> dict[str, str]:
    """Finding -> its new name; an empty one leaves the finding out."""
    return assignments("config.data.rename", self.rename)

  @property
  def exists(self) -> bool:
    """Whether all roots exist."""
    return all(epath.Path(root).exists() for root in self.roots)

  @property
  def location(self) -> str:
    """The roots as absolute paths or URLs, separated by commas."""
    return ",".join(map(_location, self.roots))

  @property
  def tree_folder(self) -> pathlib.Path:
    """The folder below `records_dir` that belongs to this dataset alone.

    A dataset that was moved keeps its folder, as long as its own name is the same.
    Before anything is written to it, `records.moved.settle` compares the images.
    """
    return self.possible_folders[0]

  @property
  def possible_folders(self) -> list[pathlib.Path]:
    """Folders of datasets of this name that are gone, and last the dataset's own.

    The dataset's own alone, once it is known.
    """
    root = self.location
    name = "+".join(_location(one).rpartition("/")[2] for one in self.roots)
    mark = hashlib.sha256(root.encode()).hexdigest()[:8]
    records_dir = pathlib.Path(self.records_dir)
    own = records_dir / f"{name}-{mark}"
    if own.is_dir():
      return [own]
    others = sorted(records_dir.glob(f"{glob.escape(name)}-{'[0-9a-f]' * 8}"))
    roots = {other: _root_of(other) for other in others}
    claimed = [other for other, recorded in roots.items() if recorded == root]
    gone = [other for other, recorded in roots.items() if not _exists(recorded)]
    return claimed[:1] or [*gone, own]

  @property
  def records_folder(self) -> pathlib.Path:
    """The folder of the records of this tree at this size."""
    return self.tree_folder / str(self.image_size)

  @property
  def standin_clip(self) -> pathlib.Path:
    """The folder of the stand-in CLIP, which sees images of one size."""
    return self.records_folder / "standin_clip"


def assignments(key: str, text: str) -> dict[str, str]:
  """Reads `a=b,c=` as {"a": "b", "c": ""}.

  Raises:
    InputError: a part without `=`, or a name that comes twice; `key` is named.
  """
  pairs = [part.partition("=") for part in _listed(text)]
  result = {name.strip(): value.strip() for name, _, value in pairs}
  if len(result) < len(pairs) or not all(sign for _, sign, _ in pairs):
    raise errors.InputError(
      f"{key}={text}", "NAME=OTHER,NAME=OTHER with different names"
    )
  return result


def _listed(text: str) -> tuple[str, ...]:
  return tuple(part.strip() for part in text.split(",") if part.strip())


def _location(root: str) -> str:
  if artifacts.is_remote(root):
    return root.rstrip("/")
  return os.fspath(pathlib.Path(root).resolve())


def _exists(location: str) -> bool:
  """Whether the root of a dataset exists, or all of several."""
  if epath.Path(location).exists():
    return True
  return all(epath.Path(root).exists() for root in location.split(","))


def _root_of(folder: pathlib.Path) -> str:
  """Where the dataset of a folder below `records_dir` was last; "." if unknown."""
  for path in (*folder.glob("root.json"), *folder.glob("*/records.json")):
    return checked_files.read_json(path).get("root", ".")
  return "."
