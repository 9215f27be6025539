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

from absl import logging
import numpy as np
from PIL import Image

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.csv_text import csv_text
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation.comparison.data import Comparison
from cxr_diffusion_jax.extras.reader_study import tables as reader_tables
from cxr_diffusion_jax.report import templates
from cxr_diffusion_jax.sampling import request as request_lib

# Names that the scores use for several paths together.
RESERVED = (reader_tables.REAL, "generated", "all")


def of_comparison(compared: Comparison, out: pathlib.Path, num_per_set: int) -> None:
  """Writes OUT/reader_study for some images of every path; nothing for none.

  Where a path or the real set has too few images, fewer of each path are shown: after
  hours of evaluation, this must not be an error.
  """
  real = compared.reference
  sets = {path.name: path.generated for path in compared.paths if path.generated}
  if not num_per_set or real is None or not sets:
    return
  num = min(num_per_set, len(real) // len(sets), *map(len, sets.values()))
  if num < num_per_set:
    logging.warning(
      "Reader study: %d images of each path in place of %d, as there are %d real ones.",
      *(num, num_per_set, len(real)),
    )
  if num:
    write(real, sets, out / "reader_study", num_per_set=num)


def write(
  real: ImageSet,
  sets: Mapping[str, ImageSet],
  folder: str | os.PathLike,
  *,
  num_per_set: int,
  seed: int = 0,
) -> pathlib.Path:
  """Writes the sheet and its key; the same arguments write the same files.

  As many real images are shown as of all paths together; a tenth, at least 4 and at
  most a third, are shown twice. Sets of one length show the same rows, thus the same
  conditions in every path. Real images that a shown image was generated from are chosen
  last. A different, earlier study in the folder is renamed, so that its answers can
  still be scored.

  Args:
    sets: path -> its images, all of the size of the real ones.
    folder: created if missing.
    num_per_set: images of each path, 1 or more.
    seed: of the choice and the order.

  Returns:
    The page, FOLDER/sheet/sheet.html.

  Raises:
    errors.InputError: too few images in a set, images of other sizes, or a path with a
      reserved name.
  """
  _check(real, sets, num_per_set)
  chosen = _choose(real, sets, num_per_set, seed)
  order = _order(len(chosen), np.random.default_rng([seed, 1]))
  pngs = [_png(images.images[row]) for images, row, _ in chosen]
  # Unique to this study, so that answers to another are recognised.
  names = [
    f"{i + 1:03d}_{_digest(pngs[entry] + str(i).encode())[:6]}"
    for i, entry in enumerate(order)
  ]
  rows = []
  for i, entry in enumerate(order):
    images, row, source = chosen[entry]
    again = names[order.index(entry)] if entry in order[:i] else ""
    rows.append([names[i], source, str(images.ids[row]), _findings(images, row), again])
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  text = csv_text([reader_tables.KEY_COLUMNS, *rows])
  _set_aside(folder, text)
  artifacts.write_text(folder / "key.csv", text)
  return _write_sheet(
    folder / "sheet", names, [pngs[i] for i in order], _digest(text.encode())
  )


def _check(real: ImageSet, sets: Mapping[str, ImageSet], num_per_set: int) -> None:
  if num_per_set < 1 or not sets:
    asked = f"{num_per_set} images of each of {len(sets)} paths"
    raise errors.InputError(f"a reader study of {asked}", "1 or more of each")
  wrong = sorted(set(sets) & set(RESERVED))
  if wrong:
    raise errors.InputError(f"a path named {wrong[0]!r}", "another name")
  height, width, *_ = real.images[0].shape
  for name, images in {reader_tables.REAL: real, **sets}.items():
    wanted = num_per_set * (len(sets) if images is real else 1)
    if len(images) < wanted:
      raise errors.InputError(
        f"{len(images)} images of {name} for the reader study",
        f"{wanted} or more",
        "show fewer images of each path, or make more",
      )
    h, w, *_ = images.images[0].shape
    if (h, w) != (height, width):
      raise errors.InputError(
        f"images of {name} are {w}x{h}, real ones {width}x{height}",
        "one size, so that it gives nothing away",
      )


def _choose(
  real: ImageSet, sets: Mapping[str, ImageSet], num_per_set: int, seed: int
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
  rows = order[np.argsort(used, kind="stable")][: num_per_set * len(sets)]
  return [*chosen, *((real, int(row), reader_tables.REAL) for row in rows)]


def _order(total: int, rng: np.random.Generator) -> list[int]:
  """Entries in the order of the sheet; repeats come long after their first showing."""
  num_repeats = min(total // 3, max(4, total // 10))
  order = rng.permutation(total)
  again = rng.choice(order[: total // 3], num_repeats, replace=False)
  last = rng.permutation(np.concatenate([order[total // 2 :], again]))
  return [int(x) for x in (*order[: total // 2], *last)]


def _png(image: np.ndarray) -> bytes:
  """Grey, 8 bits, without metadata: the encoding does not depend on the source."""
  buffer = io.BytesIO()
  Image.fromarray(np.asarray(image, np.uint8)[..., 0]).save(buffer, "PNG")
  return buffer.getvalue()


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()[:8]


def _findings(images: ImageSet, row: int) -> str:
  if "findings" not in images.labels:
    return ""
  stated = dict(zip(images.vocabulary, images.labels["findings"][row], strict=True))
  # Of the findings on the sheets; other datasets may have no label of some.
  findings = [stated.get(name, np.nan) for name in reader_tables.VOCABULARY]
  return labels_lib.text_of(np.array(findings, np.float32), reader_tables.VOCABULARY)


def _set_aside(folder: pathlib.Path, text: str) -> None:
  """Renames a different, earlier study: a reader may be answering it."""
  key = folder / "key.csv"
  if not key.exists() or (earlier := key.read_text(encoding="utf-8")) == text:
    return
  name = _digest(earlier.encode())
  if (folder / "sheet").exists():
    # The same study may have been set aside before, with answers in it.
    taken = [*sorted(path.name for path in folder.iterdir()), f"sheet_{name}"]
    os.replace(folder / "sheet", folder / request_lib.distinct(taken)[-1])
  os.replace(key, folder / f"key_{name}.csv")


def _write_sheet(
  sheet: pathlib.Path, names: Sequence[str], pngs: Sequence[bytes], study: str
) -> pathlib.Path:
  (sheet / "images").mkdir(parents=True, exist_ok=True)
  shown = []
  for name, png in zip(names, pngs, strict=True):
    (sheet / "images" / f"{name}.png").write_bytes(png)
    shown.append({"name": name, "png": base64.b64encode(png).decode()})
  answers = sheet / "answers.csv"
  # A reader may have filled it in already.
  if not answers.exists():
    rows = [["", name, "", "", ""] for name in names]
    artifacts.write_text(answers, csv_text([reader_tables.ANSWER_COLUMNS, *rows]))
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
