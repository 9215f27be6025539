"""Google's public NIH subset (form F of `elixr`), unpacked into a dataset tree.

thumbnails npz + labels CSV -> original/*.png, Data_Entry_2017.csv,
                               google-labels/cxr14_subset_validation_labels.csv

The subset states less than NIH's CSV:

- Finding Labels: EFFUSION, ATELECTASIS, CARDIOMEGALY, CONSOLIDATION and PNEUMOTHORAX
  are NIH's findings of the same name, PULMONARY_EDEMA is `Edema`; AIRSPACE_OPACITY and
  FRACTURE are `Airspace_Opacity` and `Fracture`. The cell is blank where none of the
  eight is present.
- Unknown Labels: NIH's other eight findings throughout, and blank cells. No image is
  `No Finding`, since eight of NIH's findings are never stated.
- Patient ID and Follow-up # are read off the file's name, such as `00018329_008`.
- Patient Age, Patient Gender and View Position are unknown and stay empty.
- Expert labels: AIRSPACE_OPACITY, FRACTURE and PNEUMOTHORAX are three of Google's four
  findings, blank where unknown; `Nodule or mass` is unknown throughout. They are
  written as validation labels, since the subset does not say which images are of
  Google's test sets: with Google's own files beside them (`download google-labels`)
  those are known, and win.

Source of the labels: the CXR Foundation model card; readers of Majkowska et al. 2019.
"""

import io
import pathlib
import re

import numpy as np
from PIL import Image

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data import csv_table, csv_text, npz
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.progress import Progress, no_progress

_FINDINGS = (
  ("AIRSPACE_OPACITY", "Airspace_Opacity"),
  ("ATELECTASIS", "Atelectasis"),
  ("CARDIOMEGALY", "Cardiomegaly"),
  ("CONSOLIDATION", "Consolidation"),
  ("PULMONARY_EDEMA", "Edema"),
  ("EFFUSION", "Effusion"),
  ("FRACTURE", "Fracture"),
  ("PNEUMOTHORAX", "Pneumothorax"),
)
_EXPERT = (
  ("FRACTURE", "Fracture"),
  ("PNEUMOTHORAX", "Pneumothorax"),
  ("AIRSPACE_OPACITY", "Airspace opacity"),
)
_EXPERT_FILE = f"google-labels/{metadata.SUBSET_LABELS}"


def unpack(
  thumbnails: pathlib.Path,
  labels_csv: pathlib.Path,
  root: pathlib.Path,
  *,
  progress: Progress = no_progress,
) -> None:
  """Makes a tree of the subset; resumes where it was interrupted.

  Images that either file lacks are left out.

  Args:
    thumbnails: npz, image id -> the bytes of a WebP file.
    labels_csv: one row an image, columns as in the module's docstring.

  Raises:
    InputError: a file is damaged or lacks a column; an image id is no plain file name;
      or `root` has another Data_Entry CSV, which is never overwritten.
  """
  rows = _read_labels(labels_csv)
  with npz.open_npz(thumbnails) as entries:
    stems = [stem for stem in entries.files if _plain(thumbnails, stem) in rows]
    if not stems:
      raise errors.InputError(
        f"no image of {thumbnails} has a row in {labels_csv}",
        fix="remove both files and download them again",
      )
    texts = _texts({stem: rows[stem] for stem in stems})
    _check_own(root, texts)
    folder = root / "original"
    folder.mkdir(parents=True, exist_ok=True)
    for number, stem in enumerate(stems):
      progress("images of Google's subset", number, len(stems))
      _write_png(folder / f"{stem}.png", thumbnails, entries, stem)
  progress("images of Google's subset", len(stems), len(stems))
  for name, text in texts.items():
    (root / name).parent.mkdir(exist_ok=True)
    artifacts.write_text(root / name, text)


def _plain(path: pathlib.Path, stem: str) -> str:
  """`stem`, refused where it would not be a plain name inside the folder."""
  if not re.fullmatch(r"\d{8}_\d{3}", stem):
    raise errors.InputError(
      f"{path} has an image called {stem!r}",
      "names such as 00018329_008",
      "do not use this file: it is not Google's",
    )
  return stem


def _read_labels(path: pathlib.Path) -> dict[str, dict[str, str]]:
  """Rows of the subset's CSV, by image id; values are '', '0' or '1'."""
  names = [name for name, _ in _FINDINGS]
  columns = {name: (name.casefold(),) for name in ("image_id", *names)}
  table = csv_table.read_table(path, columns, {})
  ids = [_plain(path, name.removesuffix(".png")) for name in table.column("image_id")]
  flags = {name: table.parse(name, _flag) for name in names}
  return {
    image_id: {name: flags[name][row] for name in names}
    for row, image_id in enumerate(ids)
  }


def _flag(text: str) -> str:
  flags = {"": "", "nan": "", "0": "0", "0.0": "0", "1": "1", "1.0": "1"}
  if text.lower() not in flags:
    raise ValueError("0, 1 or blank")
  return flags[text.lower()]


def _texts(rows: dict[str, dict[str, str]]) -> dict[str, str]:
  """The CSV files of the tree, by name."""
  entries = [["Image Index", "Finding Labels", "Follow-up #", "Patient ID"]]
  entries[0] += ["Patient Age", "Patient Gender", "View Position"]
  entries[0] += [metadata.UNKNOWN_LABELS]
  stated = {name: column for column, name in _FINDINGS}
  experts = [["Image Index", *(name for _, name in _EXPERT), "Nodule or mass"]]
  words = {"": "", "0": "NO", "1": "YES"}
  for stem, row in sorted(rows.items()):
    findings = "|".join(name for column, name in _FINDINGS if row[column] == "1")
    unknown = "|".join(
      name
      for name in (*metadata.FINDINGS, *metadata.MORE_FINDINGS)
      if name not in stated or not row[stated[name]]
    )
    patient, follow_up = (str(int(part)) for part in stem.split("_"))
    names = [f"{stem}.png", findings, follow_up, patient]
    entries.append([*names, "", "", "", unknown])
    answers = (words[row[column]] for column, _ in _EXPERT)
    experts.append([f"{stem}.png", *answers, ""])
  return {
    "Data_Entry_2017.csv": csv_text.csv_text(entries),
    _EXPERT_FILE: csv_text.csv_text(experts),
  }


def _check_own(root: pathlib.Path, texts: dict[str, str]) -> None:
  """Raises InputError when `root` is the tree of something else.

  The tables of this subset that an earlier version wrote, where unknown was absent, are
  written again.
  """
  ours = (root / _EXPERT_FILE).is_file()

  def images(text: str) -> list[str]:
    return [line.partition(",")[0] for line in text.splitlines()]

  for path in sorted(root.glob("Data_Entry*.csv")):
    text = csv_table.read_text(path)
    own = texts.get(path.name, "")
    if text != own and not (ours and images(text) == images(own)):
      raise errors.InputError(
        f"{path} is of another dataset",
        "an empty folder, or this subset",
        "choose another --config.data.root for the subset",
      )


def _write_png(
  path: pathlib.Path, thumbnails: pathlib.Path, entries: np.lib.npyio.NpzFile, stem: str
) -> None:
  """Decodes one WebP to a grey PNG, unless it is there."""
  if path.is_file():
    return
  # The bytes are an array of uint8 or one of numpy's byte strings.
  content = npz.read_entry(thumbnails, entries, stem).tobytes()
  png = io.BytesIO()
  try:
    with Image.open(io.BytesIO(content), formats=("WEBP", "PNG", "JPEG")) as image:
      image.convert("L").save(png, format="PNG")
  except (OSError, SyntaxError) as error:
    raise errors.InputError(
      f"{thumbnails}: {stem} is no image: {error}",
      fix="remove the file and download it again",
    ) from error
  artifacts.write_bytes(path, png.getvalue())
