"""The files of a synthetic dataset, laid out so that a source of `data/` reads them.

OUT/original/90000001_000.png ...  images, each with a text chunk `synthetic`
OUT/parts/part_00000.json ...      what is in each part; written after its images
OUT/Data_Entry_2017.csv, train_val_list.txt (or labels.csv), datasheet.md, manifest.json
OUT/generation.json                what makes two calls the same
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib

from etils import epath
import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, disk, errors
from cxr_diffusion_jax.data.sources import phantom
from cxr_diffusion_jax.run import locks
from cxr_diffusion_jax.sampling import files as sample_files
from cxr_diffusion_jax.synthesis import tables
from cxr_diffusion_jax.synthesis.rows import Subject

IMAGES, PARTS = "original", "parts"
DATASHEET, FACTS = "datasheet.md", phantom.GENERATION_FILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """An accepted image.

  Attributes:
    number: of the image in the plan.
    quota: its quota's place in the plan.
    draw: how many draws were rejected before it.
    sha256: of the file.
  """

  number: int
  quota: int
  draw: int
  file: str
  sha256: str
  subject: Subject


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """Consecutive images of a plan.

  Attributes:
    missing: numbers of images whose draws were all rejected.
    rejected: quota -> rejected draws.
    objections: such as 'Effusion missed' -> rejected draws; one may have several.
  """

  entries: tuple[Entry, ...]
  missing: tuple[int, ...] = ()
  rejected: Mapping[int, int] = dataclasses.field(default_factory=dict)
  objections: Mapping[str, int] = dataclasses.field(default_factory=dict)


_NAMES = (IMAGES, PARTS, *tables.NAMES, DATASHEET, FACTS)


def check(out: artifacts.PathLike, facts: artifacts.Json) -> None:
  """Refuses the folder of another dataset before any long work; creates nothing.

  Args:
    facts: those on which the images depend that are known already.

  Raises:
    errors.InputError: the folder holds other files, or images of other facts.
  """
  folder = _folder(out)
  if not folder.exists():
    return
  with locks.alone(folder), disk.reporting(folder):
    if any(folder.iterdir()):
      artifacts.claim_folder(folder, _NAMES)
      _check_facts(folder, facts)


def claim(out: artifacts.PathLike, facts: artifacts.Json) -> epath.Path:
  """Marks a folder as that of a dataset, or finds the one that earlier calls began.

  Args:
    facts: all that the images depend on.

  Raises:
    errors.InputError: the folder holds other files, or images of other facts.
  """
  folder = _folder(out)
  with disk.reporting(folder, making=True):
    folder.mkdir(parents=True, exist_ok=True)
  with locks.alone(folder), disk.reporting(folder):
    artifacts.claim_folder(folder, _NAMES)
    if _check_facts(folder, facts) != facts:
      artifacts.write_json(folder / FACTS, facts)
  return folder


def _folder(out: artifacts.PathLike) -> epath.Path:
  folder = epath.Path(out)
  if folder.exists() and not folder.is_dir():
    raise errors.InputError(f"{folder} is a file", "a folder", "name another one")
  return folder


def _check_facts(folder: epath.Path, facts: artifacts.Json) -> artifacts.Json:
  """The facts of a folder; InputError if it has images of others."""
  path = folder / FACTS
  saved = artifacts.read_json(path) if path.exists() else {}
  differing = [key for key in facts if saved and saved.get(key) != facts[key]]
  places = [folder / name for name in (IMAGES, PARTS)]
  if differing and any(place.exists() and any(place.iterdir()) for place in places):
    raise errors.InputError(
      f"{folder} holds images of another call, with other {', '.join(differing)}",
      "the same command, or a new folder",
      "name another folder",
    )
  return saved


def write_image(
  folder: epath.Path,
  facts: artifacts.JsonMapping,
  image: np.ndarray,
  subject: Subject,
  *,
  number: int,
  quota: int,
  draw: int,
  shared: bool,
) -> Entry:
  """Writes an accepted image, uint8 [h w 1].

  Args:
    facts: of the dataset.
    shared: whether several images may be of one patient; then the image's number
      follows the patient's in the file's name.
  """
  name = f"{subject.patient:08d}_{number if shared else 0:03d}.png"
  origin = {
    "weights": facts["weights"][:16],
    "checkpoint_step": facts["checkpoint_step"],
    "seed": facts["seed"],
    "number": number,
    "draw": draw,
  }
  shown = ("findings", "unknown", "age", "sex", "view")
  person = {key: getattr(subject, key) for key in shown}
  content = sample_files.png(image, {**origin, **person})
  artifacts.write_bytes(folder / IMAGES / name, content)
  return Entry(
    number=number,
    quota=quota,
    draw=draw,
    file=name,
    sha256=hashlib.sha256(content).hexdigest(),
    subject=subject,
  )


def write_part(folder: epath.Path, number: int, part: Part) -> None:
  """Describes a part whose images are all written, without ids of real images."""
  values = dataclasses.asdict(part)
  for entry in values["entries"]:
    del entry["subject"]["condition"]
  checked_files.write_json(_part_path(folder, number), values)


def read_parts(
  folder: epath.Path, numbers: Iterable[int], *, verify: bool = False
) -> dict[int, Part]:
  """Reads those of some parts that are whole: described, and with all their images.

  Args:
    verify: whether images of this machine must have the content that was written.

  Raises:
    errors.InputError: a description that cannot be read.
  """
  images = folder / IMAGES
  present = {path.name for path in images.iterdir()} if images.exists() else set()
  parts = {}
  for number in numbers:
    path = _part_path(folder, number)
    if path.exists():
      try:
        part = _part_of(checked_files.read_json(path))
      except (KeyError, TypeError, AttributeError) as error:
        raise errors.InputError(
          f"{path} is damaged",
          "a part of this dataset",
          "delete the file: its images are made again",
        ) from error
      whole = present.issuperset(entry.file for entry in part.entries)
      if whole and verify and not artifacts.is_remote(folder):
        whole = all(
          _digest(images / entry.file) == entry.sha256 for entry in part.entries
        )
      if whole:
        parts[number] = part
  return parts


def _digest(path: epath.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def _part_path(folder: epath.Path, number: int) -> epath.Path:
  return folder / PARTS / f"part_{number:05d}.json"


def _part_of(values: artifacts.Json) -> Part:
  entries = []
  for value in values["entries"]:
    person = value.pop("subject")
    names = {key: tuple(person[key]) for key in ("findings", "unknown")}
    subject = Subject(**{**person, **names})
    entries.append(Entry(**value, subject=subject))
  return Part(
    entries=tuple(entries),
    missing=tuple(values["missing"]),
    rejected={int(quota): count for quota, count in values["rejected"].items()},
    objections=values["objections"],
  )


def merge(parts: Sequence[Part]) -> Part:
  """All parts as one."""
  rejected, objections = Counter(), Counter()
  for part in parts:
    rejected.update(part.rejected)
    objections.update(part.objections)
  return Part(
    entries=tuple(entry for part in parts for entry in part.entries),
    missing=tuple(number for part in parts for number in part.missing),
    rejected=rejected,
    objections=objections,
  )


def finish(
  folder: epath.Path,
  whole: Part,
  vocabulary: Sequence[str],
  datasheet: str,
  *,
  keep_ids: bool,
) -> None:
  """Writes the files of the whole dataset.

  Args:
    vocabulary: of the labels.
    keep_ids: whether the table names the real image of each condition.
  """
  with locks.alone(folder):
    files = [entry.file for entry in whole.entries]
    subjects = [entry.subject for entry in whole.entries]
    texts = tables.make(files, subjects, vocabulary, keep_ids=keep_ids) | {
      DATASHEET: datasheet
    }
    for name, text in texts.items():
      artifacts.write_text(folder / name, text)
    manifest = artifacts.read_json(folder / artifacts.MANIFEST)
    digests = {f"{IMAGES}/{entry.file}": entry.sha256 for entry in whole.entries}
    for file in (*texts, FACTS):
      digests[file] = _digest(folder / file)
    content = {"names": manifest["names"], "synthetic": True, "sha256": digests}
    artifacts.write_json(folder / artifacts.MANIFEST, content)
