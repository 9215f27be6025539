"""A blinded sheet of real and generated images for experts, and its separate key.

real, {path: generated} --choose, shuffle--> FOLDER/sheet/{sheet.html, images/*.png,
answers.csv}, FOLDER/key.csv; `scores.score` reads the answers

Readers get the folder `sheet` or only sheet.html, never the key. Half of the images are
real, so that guesses are right half of the time; a few images are shown twice.
"""

import base64
from collections.abc import Mapping, Sequence
import hashlib
import io
import os
import pathlib

import numpy as np
from PIL import Image

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.csv_table import csv_text
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation.comparison.data import Comparison
from cxr_diffusion_jax.extras.reader_study import tables as reader_tables
from cxr_diffusion_jax.report import templates

# Names that the scores use for several paths together.
RESERVED = (reader_tables.REAL, "generated", "all")


def of_comparison(compared: Comparison, out: pathlib.Path, num_per_set: int) -> None:
  """Writes OUT/reader_study for the first images of every path; nothing for none."""
  if num_per_set and compared.reference is not None:
    sets = {path.name: path.generated for path in compared.paths if path.generated}
    write(compared.reference, sets, out / "reader_study", num_per_set=num_per_set)


def write(
  real: ImageSet,
  sets: Mapping[str, ImageSet],
  folder: str | os.PathLike,
  *,
  num_per_set: int,
  seed: int = 0,
  num_real: int | None = None,
  num_repeats: int | None = None,
) -> pathlib.Path:
  """Writes the sheet and its key; the same arguments write the same files.

  Sets of one length show the same rows, thus the same conditions in every path. Real
  images that a shown image was generated from are chosen last. A different, earlier
  study in the folder is renamed, so that its answers can still be scored.

  Args:
    real: to choose from.
    sets: path -> its images, all of the size of the real ones.
    folder: where to write; created if missing.
    num_per_set: images of each path, 1 or more.
    seed: of the choice and the order.
    num_real: real images; by default as many as of all paths together.
    num_repeats: images of the first third that are shown again in the second half, at
      most a third of all; by default a tenth and at least 4.

  Returns:
    The page, FOLDER/sheet/sheet.html.

  Raises:
    errors.InputError: too few images in a set, images of other sizes, a path with a
      reserved name, or more repeats than a third.
  """
  num_real = num_per_set * len(sets) if num_real is None else num_real
  _check(real, sets, num_per_set, num_real)
  chosen = _choose(real, sets, num_per_set, num_real, seed)
  total = len(chosen)
  if num_repeats is None:
    num_repeats = min(total // 3, max(4, total // 10))
  if not 0 <= num_repeats <= total // 3:
    raise errors.InputError(
      f"{num_repeats} repeated images of {total}", f"0 to {total // 3}"
    )
  order = _order(total, num_repeats, np.random.default_rng([seed, 1]))
  pngs = [_png(images.images[row]) for images, row, _ in chosen]
  names = [_name(i, pngs[entry]) for i, entry in enumerate(order)]
  rows = []
  for i, entry in enumerate(order):
    images, row, source = chosen[entry]
    first = order.index(entry)
    again = names[first] if first < i else ""
    rows.append([names[i], source, str(images.ids[row]), _findings(images, row), again])
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  text = csv_text([reader_tables.KEY_COLUMNS, *rows])
  _set_aside(folder, text)
  artifacts.write_text(folder / "key.csv", text)
  return _write_sheet(folder / "sheet", names, [pngs[i] for i in order], _digest(text))


def _check(
  real: ImageSet, sets: Mapping[str, ImageSet], num_per_set: int, num_real: int
) -> None:
  if num_per_set < 1 or num_real < 1 or not sets:
    raise errors.InputError(
      f"a reader study of {num_real} real images and {num_per_set} of each of"
      f" {len(sets)} paths",
      "1 or more of each",
    )
  wrong = sorted(set(sets) & set(RESERVED))
  if wrong:
    raise errors.InputError(f"a path named {wrong[0]!r}", "another name")
  wanted = {reader_tables.REAL: num_real, **dict.fromkeys(sets, num_per_set)}
  for name, images in {reader_tables.REAL: real, **sets}.items():
    if len(images) < wanted[name]:
      raise errors.InputError(
        f"{len(images)} images of {name} for the reader study",
        f"{wanted[name]} or more",
        "show fewer images of each path, or make more",
      )
  height, width = real.images[0].shape[:2]
  for name, images in sets.items():
    h, w = images.images[0].shape[:2]
    if (h, w) != (height, width):
      raise errors.InputError(
        f"images of {name} are {w}x{h}, real ones {width}x{height}",
        "one size, so that it gives nothing away",
      )


def _choose(
  real: ImageSet,
  sets: Mapping[str, ImageSet],
  num_per_set: int,
  num_real: int,
  seed: int,
) -> list[tuple[ImageSet, int, str]]:
  """-> (set, row, name of the set) of each image."""
  chosen = []
  conditions: set[str] = set()
  for name in sorted(sets):
    images = sets[name]
    # The same seed for each: sets of one length show the same rows.
    rows = np.random.default_rng(seed).permutation(len(images))[:num_per_set]
    chosen += [(images, int(row), name) for row in rows]
    sources = images.labels.get("condition", images.ids)
    conditions |= {str(sources[row]) for row in rows}
  order = np.random.default_rng([seed, 2]).permutation(len(real))
  used = np.array([str(real.ids[row]) in conditions for row in order])
  rows = order[np.argsort(used, kind="stable")][:num_real]
  return [*chosen, *((real, int(row), reader_tables.REAL) for row in rows)]


def _order(total: int, num_repeats: int, rng: np.random.Generator) -> list[int]:
  """Entries in the order of the sheet; repeats come long after their first showing."""
  order = rng.permutation(total)
  again = rng.choice(order[: total // 3], num_repeats, replace=False)
  last = rng.permutation(np.concatenate([order[total // 2 :], again]))
  return [int(x) for x in (*order[: total // 2], *last)]


def _png(image: np.ndarray) -> bytes:
  """Grey, 8 bits, without metadata: the encoding does not depend on the source."""
  buffer = io.BytesIO()
  Image.fromarray(np.asarray(image, np.uint8)[..., 0]).save(buffer, "PNG")
  return buffer.getvalue()


def _name(place: int, png: bytes) -> str:
  """Neutral and unique to this study, so that answers to another are recognised."""
  return f"{place + 1:03d}_{_digest(png + str(place).encode())[:6]}"


def _digest(data: str | bytes) -> str:
  data = data.encode() if isinstance(data, str) else data
  return hashlib.sha256(data).hexdigest()[:8]


def _findings(images: ImageSet, row: int) -> str:
  if "findings" not in images.labels:
    return ""
  names = labels_lib.names_of(images.labels["findings"][row], images.vocabulary)
  return "|".join(names) or labels_lib.NO_FINDING


def _set_aside(folder: pathlib.Path, text: str) -> None:
  """Renames a different, earlier study: a reader may be answering it."""
  key = folder / "key.csv"
  if not key.exists() or (earlier := key.read_text(encoding="utf-8")) == text:
    return
  name = _digest(earlier)
  if (folder / "sheet").exists():
    # The same study may have been set aside before, with answers in it.
    names = (f"sheet_{name}{more}" for more in ("", *(f"-{i}" for i in range(2, 100))))
    aside = next(one for one in names if not (folder / one).exists())
    os.replace(folder / "sheet", folder / aside)
  os.replace(key, folder / f"key_{name}.csv")


def _write_sheet(
  sheet: pathlib.Path, names: Sequence[str], pngs: Sequence[bytes], study: str
) -> pathlib.Path:
  (sheet / "images").mkdir(parents=True, exist_ok=True)
  for name, png in zip(names, pngs, strict=True):
    (sheet / "images" / f"{name}.png").write_bytes(png)
  answers = sheet / "answers.csv"
  # A reader may have filled it in already.
  if not answers.exists():
    rows = [["", name, "", "", ""] for name in names]
    artifacts.write_text(answers, csv_text([reader_tables.ANSWER_COLUMNS, *rows]))
  shown = [
    {"name": name, "png": base64.b64encode(png).decode()}
    for name, png in zip(names, pngs, strict=True)
  ]
  data = {
    "id": study,
    "columns": reader_tables.ANSWER_COLUMNS,
    "findings": reader_tables.VOCABULARY,
    "none": labels_lib.NO_FINDING,
    "images": shown,
  }
  page = templates.render("reader_sheet.html", study=data)
  artifacts.write_text(sheet / "sheet.html", page)
  return sheet / "sheet.html"
