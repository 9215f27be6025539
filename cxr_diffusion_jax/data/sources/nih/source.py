"""NIH ChestX-ray14 as a table: images, labels, boxes, lists, Google's expert labels."""

import os

from etils import epath
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table
from cxr_diffusion_jax.data.sources import base
from cxr_diffusion_jax.data.sources.nih import google_labels, layout, metadata

VOCABULARY = metadata.FINDINGS

_OLD_SUBSET = (
  "{} of Google's subset is of an earlier version and takes unknown findings as absent:"
  " write it again with prepare --download google-nih-subset"
)

# Names in the published lists.
_PUBLISHED = {"train": 86_524, "test": 25_596}


def read_vocabulary(root: epath.Path) -> tuple[str, ...]:
  """The findings that a tree states, see `base.Source`."""
  entry = layout.find_tree(root).data_entry
  if not metadata.has_unknown(entry):
    return VOCABULARY
  entries = metadata.read_entries(entry)
  names = zip(entries.vocabulary, base.stated(entries.findings), strict=True)
  return tuple(name for name, stated in names if stated)


def read_table(root: epath.Path, *, image_size: int) -> base.Table:
  """Reads an NIH tree, see `base.Source`."""
  tree = layout.find_tree(root)
  entries = metadata.read_entries(tree.data_entry)
  images = tree.resolve(image_size)
  if not images:
    sizes = ", ".join(f"{side}x{side}/" for side in sorted(tree.resized))
    raise errors.InputError(
      f"no image of {image_size} pixels or more in {root}",
      f"images in original/ or {image_size}x{image_size}/ or larger",
      f"copy them there, or take a size of {sizes}",
    )
  paths = [images.get(image_id) for image_id in entries.id.tolist()]
  official, note, notes = _official(tree, entries.id)
  expert = google_labels.read_google_labels(tree.google_labels)
  boxes = {} if tree.boxes is None else metadata.read_boxes(tree.boxes)
  more = len(entries.vocabulary) - len(metadata.FINDINGS)
  if not more and any(
    path.name == metadata.SUBSET_LABELS for path in tree.google_labels
  ):
    notes = (*notes, _OLD_SUBSET.format(tree.data_entry))
  return base.Table(
    vocabulary=entries.vocabulary,
    origin=os.fspath(tree.data_entry),
    id=entries.id,
    patient=entries.patient,
    findings=entries.findings.astype(np.float32),
    image=paths,
    age=entries.age,
    sex=entries.sex,
    view=entries.view,
    boxes={
      name: np.pad(box, ((0, more), (0, 0)), constant_values=np.nan)
      for name, box in boxes.items()
    },
    expert=expert.four_findings,
    expert_test_ids=expert.test_ids,
    official=official,
    split_note=note,
    num_unlisted=len(images) - sum(path is not None for path in paths),
    notes=notes,
    report=read_reports(tree.data_entry) if entries.has_reports else None,
  )


def read_list(path: str | os.PathLike) -> frozenset[str]:
  """Reads an official list: one image name a line; returns names without extension.

  Raises:
    InputError: the list is empty, or not text (see `csv_table.read_text`).
  """
  lines = csv_table.read_text(path).splitlines()
  names = frozenset(map(csv_table.stem, lines)) - {""}
  if not names:
    raise errors.InputError(f"{path} is empty", "one image name a line")
  return names


def read_reports(path: str | os.PathLike) -> dict[str, str]:
  """Reads the reports of a CSV.

  Args:
    path: of a CSV with the columns `Image Index` and `report`, in any case.

  Returns:
    Image name without extension -> report, in the file's order; line ends and runs of
    blanks are one blank each. Images without a report are left out.

  Raises:
    InputError: see `csv_table.read_table`; or an image named twice.
  """
  columns = {"Image Index": ("image index",), "report": ("report",)}
  table = csv_table.read_table(path, columns, {})
  ids = table.ids("Image Index", csv_table.stem).tolist()
  reports = [" ".join(text.split()) for text in table.column("report")]
  return {name: text for name, text in zip(ids, reports, strict=True) if text}


def _official(
  tree: layout.Tree, ids: np.ndarray
) -> tuple[np.ndarray | None, str, tuple[str, ...]]:
  """The part of each row, its origin, and warnings; one list implies the other."""
  paths = {"train": tree.train_val_list, "test": tree.test_list}
  lists = {part: read_list(path) for part, path in paths.items() if path is not None}
  members = {
    part: np.isin(ids, np.array(sorted(names), np.str_))
    for part, names in lists.items()
  }
  if not members:
    return None, "", ()
  note = " and ".join(path.name for path in paths.values() if path is not None)
  if not any(member.any() for member in members.values()):
    # Lists of other images: refused, unless the split is by patient hash.
    return np.full(len(ids), ""), note, ()
  if len(members) == 1:
    (part,) = members
    other = "test" if part == "train" else "train"
    name, count = note, len(lists[part])
    note += f" alone: images that it does not name are for {other}"
    warnings = ()
    if count != _PUBLISHED[part]:
      warnings = (
        f"{name} has {count:,} names, NIH's own {_PUBLISHED[part]:,}. There is no other"
        f" list, so all other images are for {other}: copy it again if it is cut short",
      )
    return np.where(members[part], part, other), note, warnings
  official = np.select([members["test"], members["train"]], ["test", "train"], "")
  both = np.count_nonzero(members["train"] & members["test"])
  if both:
    note += f", {both} images that both name are for test"
  return official, note, ()
