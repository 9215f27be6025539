"""NIH ChestX-ray14 as a table: images, labels, boxes, lists, Google's expert labels."""

import os
import pathlib

from etils import epath
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.sources import base
from cxr_diffusion_jax.data.sources.nih import google_labels, layout, metadata

VOCABULARY = metadata.FINDINGS

REPORT_COLUMNS = ("Image Index", "report")


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
  expert = google_labels.read_google_labels(tree.google_labels)
  return base.Table(
    vocabulary=VOCABULARY,
    origin=os.fspath(tree.data_entry),
    id=entries.id,
    patient=entries.patient,
    findings=entries.findings.astype(np.float32),
    image=paths,
    age=entries.age,
    sex=entries.sex,
    view=entries.view,
    boxes={} if tree.boxes is None else metadata.read_boxes(tree.boxes),
    expert=expert.four_findings,
    expert_test_ids=expert.test_ids,
    official=_official(tree, entries.id),
    num_unlisted=len(images) - sum(path is not None for path in paths),
    report=read_reports(tree.data_entry) if entries.has_reports else None,
  )


def read_list(path: str | os.PathLike) -> frozenset[str]:
  """Reads an official list: one image name a line; returns names without extension.

  Raises:
    InputError: the list is empty.
  """
  lines = epath.Path(path).read_bytes().decode("utf-8-sig").splitlines()
  names = frozenset(pathlib.PurePath(line.strip()).stem for line in lines) - {""}
  if not names:
    raise errors.InputError(f"{path} is empty", "one image name a line")
  return names


def read_reports(path: str | os.PathLike) -> dict[str, str]:
  """Reads the reports of a CSV.

  Args:
    path: of the CSV, with the columns `Image Index` and `report` in upper or lower case
      and any others; a report of several lines is quoted.

  Returns:
    Image name without extension -> report, in the file's order; line ends and runs of
    blanks are one blank each. Images without a report are left out.

  Raises:
    InputError: no such file, no table in UTF-8, a column missing, a row too short, or
      an image named twice.
  """
  lines = base.read_csv(path)
  rows = [(number, row) for number, row in enumerate(lines[1:], start=2) if row]
  header = lines[0] if lines else []
  if rows and len(header) != len(rows[0][1]):
    # NIH's `OriginalImage[Width,Height]` in quotes is one cell over two columns.
    header = ",".join(header).split(",")
  names = [name.strip() for name in header]
  known = [name.casefold() for name in names]
  missing = [name for name in REPORT_COLUMNS if name.casefold() not in known]
  if missing:
    present = ", ".join(sorted(filter(None, names)))
    raise errors.InputError(
      f"{path} lacks the column {' and '.join(map(repr, missing))}",
      f"{' and '.join(REPORT_COLUMNS)}; it has {present}",
      "name the columns so in the CSV's first line",
    )
  if not rows:
    raise errors.InputError(f"{path} has no rows", "a header and a row for each image")
  image, report = (known.index(name.casefold()) for name in REPORT_COLUMNS)
  for number, row in rows:
    # A report with commas and no quotes would lose all but its beginning.
    if len(row) <= max(image, report) or any(map(str.strip, row[len(names) :])):
      raise errors.InputError(
        f"{path} line {number} has {len(row)} cells",
        f"{len(names)}, as the first line",
        "quote reports that contain commas or line ends",
      )
  ids = [pathlib.PurePath(row[image].strip()).stem for _, row in rows]
  metadata.refuse_duplicates(path, ids)
  reports = [" ".join(row[report].split()) for _, row in rows]
  return {name: text for name, text in zip(ids, reports, strict=True) if text}


def _official(
  tree: layout.Tree, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
  """Rows in the training list and in the test list; one list implies the other."""
  train, test = (
    None if path is None else np.isin(ids, np.array(sorted(read_list(path)), np.str_))
    for path in (tree.train_val_list, tree.test_list)
  )
  if train is None:
    return None if test is None else (~test, test)
  return train, ~train if test is None else test
