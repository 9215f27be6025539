"""Decides, before any image is opened, which rows the records of a tree will hold.

Tree + CSV + lists + boxes + expert labels -> rows (path, split, labels) in CSV order

The fingerprint names everything that the records depend on, so that a second run knows
in a moment that nothing is to be done.
"""

import dataclasses
import hashlib
import json
import os

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import images, splits
from cxr_diffusion_jax.data.sources.nih import boxes as boxes_lib
from cxr_diffusion_jax.data.sources.nih import google_labels, layout, metadata

# Counted up whenever records of an older program can no longer be read or trusted.
FORMAT = 1

SPLIT_CHOICES = ("auto", "official", "hash")
MISSING_CHOICES = ("error", "drop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSettings:
  """What records to make of which tree.

  Attributes:
    root: the tree.
    folder: where the records go; made when absent.
    image_size: pixels of a side.
    resize: `crop` or `pad`, see `images.resize`.
    split: `official` by NIH's lists, `hash` by patient, `auto` the lists where present.
    validation_fraction: see `splits.assign_splits`.
    train_on_expert: see `splits.assign_splits`.
    missing: `error` or `drop`: what to do with rows whose image is absent or damaged.
  """

  root: str | os.PathLike
  folder: str | os.PathLike
  image_size: int
  resize: str = "crop"
  split: str = "auto"
  validation_fraction: float = 0.05
  train_on_expert: bool = False
  missing: str = "error"

  def __post_init__(self):
    choices = {
      "resize": images.MODES,
      "split": SPLIT_CHOICES,
      "missing": MISSING_CHOICES,
    }
    for name, allowed in choices.items():
      if getattr(self, name) not in allowed:
        raise errors.InputError(
          f"config.data.{name}={getattr(self, name)!r}", f"one of {', '.join(allowed)}"
        )
    if self.image_size < 1:
      raise errors.InputError(f"config.data.image_size={self.image_size}", "1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The rows that records are to hold, n of them, in the CSV's order.

  Attributes:
    entries: the n rows whose image is there.
    split: [n] str of `splits.SPLITS`.
    paths: n paths of images.
    boxes: id -> [14 4] pixels, of the images that have boxes.
    expert: id -> [4], of the images that have Google's four findings.
    absent: ids of rows left out because they have no image.
  """

  entries: metadata.Entries
  split: np.ndarray
  paths: list[str]
  boxes: dict[str, np.ndarray]
  expert: dict[str, np.ndarray]
  absent: tuple[str, ...]


def fingerprint(settings: RecordSettings, tree: layout.Tree) -> str:
  """Names what the records depend on.

  Images count by name, size and time of change; other files by their content.

  Args:
    settings: of the records; `folder` and `missing` do not count.
    tree: found at `settings.root`.

  Returns:
    32 hexadecimal digits.
  """
  hasher = hashlib.blake2b(digest_size=16)
  counted = ("image_size", "resize", "split", "validation_fraction", "train_on_expert")
  values = {name: getattr(settings, name) for name in counted}
  hasher.update(json.dumps([FORMAT, values]).encode())
  files = (tree.data_entry, tree.boxes, tree.train_val_list, tree.test_list)
  for path in (*files, *tree.google_labels):
    if path is not None:
      content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
      hasher.update(f"{path.relative_to(tree.root)}\0{content}\n".encode())
  # One string for all images: 112,120 calls would take most of the time.
  prefix = len(os.fspath(tree.root))
  lines = []
  for path in sorted(tree.resolve(settings.image_size).values()):
    status = os.stat(path)
    lines.append(f"{path[prefix:]}\0{status.st_size}\0{status.st_mtime_ns}\n")
  hasher.update("".join(lines).encode())
  return hasher.hexdigest()


def plan_rows(settings: RecordSettings, tree: layout.Tree) -> Plan:
  """Reads all labels of a tree and joins them with its images.

  Args:
    settings: of the records.
    tree: found at `settings.root`.

  Returns:
    The plan.

  Raises:
    InputError: a label file that cannot be read; rows without an image, unless
      `settings.missing` is `drop`; no row with an image; no row to train on.
  """
  entries = metadata.read_entries(tree.data_entry)
  images_found = tree.resolve(settings.image_size)
  has_image = np.array([stem in images_found for stem in entries.id], bool)
  absent = entries.id[~has_image]
  if absent.size:
    _judge_absent(settings, tree, absent, total=len(entries))
  num_unnamed = len(images_found) - int(has_image.sum())
  if num_unnamed:
    logging.warning("%d images are not in %s", num_unnamed, tree.data_entry)
  # Split before rows are dropped: a patient's split hangs on no file being there.
  expert = google_labels.read_google_labels(tree.google_labels)
  split = splits.assign_splits(
    entries,
    official=_official_lists(settings, tree),
    expert_ids=expert.test_ids,
    validation_fraction=settings.validation_fraction,
    train_on_expert=settings.train_on_expert,
  )
  entries, split = entries.take(has_image), split[has_image]
  if not (split == "train").any():
    raise errors.InputError(
      f"none of the {len(entries)} images of {settings.root} falls in train",
      "images of train_val_list.txt",
      "--config.data.split=hash splits by patient without the lists",
    )
  return Plan(
    entries=entries,
    split=split,
    paths=[images_found[stem] for stem in entries.id],
    boxes={} if tree.boxes is None else boxes_lib.read_boxes(tree.boxes),
    expert=expert.four_findings,
    absent=tuple(absent.tolist()),
  )


def _judge_absent(
  settings: RecordSettings, tree: layout.Tree, absent: np.ndarray, *, total: int
) -> None:
  size = settings.image_size
  what = f"{absent.size} of the {total} images named in {tree.data_entry} are absent"
  what += f" from {tree.root} (at {size} pixels or more)"
  first = f"first {', '.join(absent[:3])}"
  if absent.size == total:
    sizes = ", ".join(f"{side}x{side}/" for side in sorted(tree.resized))
    raise errors.InputError(
      f"{what}: no name joins, {first}",
      f"images of the same names in original/ or {size}x{size}/ or larger",
      f"copy them there{f', or take a size of {sizes}' if sizes else ''}",
    )
  if settings.missing == "error":
    raise errors.InputError(
      f"{what}, {first}",
      "an image for every row",
      "copy them there, or go on without these rows: --config.data.missing=drop",
    )
  logging.warning("%s, %s: left out", what, first)


def _official_lists(
  settings: RecordSettings, tree: layout.Tree
) -> tuple[frozenset[str], frozenset[str]] | None:
  paths = (tree.train_val_list, tree.test_list)
  if settings.split == "hash" or (settings.split == "auto" and not all(paths)):
    return None
  if not all(paths):
    raise errors.InputError(
      f"config.data.split=official, but {tree.root} lacks its lists",
      "train_val_list.txt and test_list.txt",
      "--config.data.split=hash splits by patient without the lists",
    )
  return splits.read_list(tree.train_val_list), splits.read_list(tree.test_list)
