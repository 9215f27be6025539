"""Makes a synthetic dataset, part by part: killed at any time, it is resumed.

plan, seed --Subjects--> conditions --Generator--> images --judges--> accepted | redrawn
part: images -> original/*.png, then parts/part_00000.json
all parts -> table, datasheet, manifest

Draw d of image i depends on the run, its sampler, the plan, the seed, i and d alone. A
part is always made in the same batches, so that a resumed dataset is the same to the
byte. Processes share a dataset by parts: process p of n makes the parts p, p + n, ...
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax import artifacts, disk, errors, types
from cxr_diffusion_jax.parallel import distributed
from cxr_diffusion_jax.run import locks
from cxr_diffusion_jax.synthesis import (
  acceptance,
  datasheet,
  rows,
  tree,
)
from cxr_diffusion_jax.synthesis.dataset import STRIDE, SyntheticDataset
from cxr_diffusion_jax.synthesis.rows import Subject


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What is in the folder after a call.

  Attributes:
    whole: everything so far.
    remaining_parts: parts that other processes have still to make; 0 when the table and
      the datasheet are written.
    short: (quota's title, images that are missing) of each quota that was not filled.
  """

  whole: tree.Part
  remaining_parts: int
  short: tuple[tuple[str, int], ...]


def make(
  dataset: SyntheticDataset,
  *,
  shard: tuple[int, int] = (0, 1),
  progress: types.Progress = types.no_progress,
) -> Outcome:
  """Makes the parts that are missing, and the table and the datasheet at the end.

  Args:
    shard: (p, n): makes the parts p, p + n, ...

  Raises:
    errors.Interrupted: a signal came; whole parts are kept.
    errors.InputError: the disk is full or cannot be written to.
  """
  first, step = shard
  own = range(first, dataset.num_parts, step)
  with (
    distributed.signals() as received,
    disk.reporting(dataset.folder),
    locks.parts(dataset.folder / tree.FACTS, own),
  ):
    _make_parts(dataset, own, received, progress)
  with disk.reporting(dataset.folder):
    return _finish(dataset)


def _make_parts(
  dataset: SyntheticDataset,
  own: range,
  received: Sequence[int],
  progress: types.Progress,
) -> None:
  """Makes those of some parts that are not whole, until a signal is received."""
  sizes = {part: len(dataset.numbers(part)) for part in own}
  whole = tree.read_parts(dataset.folder, own, verify=True)
  total, done = sum(sizes.values()), sum(sizes[part] for part in whole)
  _check_room(dataset, total - done)
  progress("images", done, total)
  for part in (part for part in own if part not in whole):

    def report(accepted: int, before: int = done) -> None:
      if received:
        raise errors.Interrupted(
          received[0],
          f"interrupted: {before:,} of {total:,} images are saved; repeat the same"
          " command to continue",
        )
      progress("images", before + accepted, total)

    tree.write_part(dataset.folder, part, _make_part(dataset, part, report))
    done += sizes[part]
    progress("images", done, total)


def _finish(dataset: SyntheticDataset) -> Outcome:
  """Writes the table and the datasheet if all parts are there."""
  parts = tree.read_parts(dataset.folder, range(dataset.num_parts))
  whole = _with_conditions(dataset, tree.merge(list(parts.values())))
  remaining = dataset.num_parts - len(parts)
  if not remaining:
    text = datasheet.text(dataset, whole)
    tree.finish(
      dataset.folder,
      whole,
      dataset.run.card.vocabulary,
      text,
      keep_ids=dataset.keep_ids,
    )
  missing = Counter(dataset.plan.place(number)[0] for number in whole.missing)
  quotas = dataset.plan.quotas
  return Outcome(
    whole=whole,
    remaining_parts=remaining,
    short=tuple((quotas[row].title, missing[row]) for row in sorted(missing)),
  )


def _with_conditions(dataset: SyntheticDataset, whole: tree.Part) -> tree.Part:
  """Adds the ids of the conditions, which no file of a part holds."""
  if not rows.reads_images(dataset.run):
    return whole
  entries = []
  for entry in whole.entries:
    (subject,) = dataset.source.subjects([entry.number], entry.draw)
    entries.append(dataclasses.replace(entry, subject=subject))
  return dataclasses.replace(whole, entries=tuple(entries))


def _make_part(
  dataset: SyntheticDataset, part: int, report: Callable[[int], None]
) -> tree.Part:
  """Draws the images of a part until each is accepted or has had all its draws."""
  remaining = list(dataset.numbers(part))
  shared = rows.reads_images(dataset.run)
  entries: list[tree.Entry] = []
  rejected, objections = Counter(), Counter()
  for draw in range(dataset.max_draws):
    again = []
    for numbers in _chunks(remaining, dataset.batch_size):
      report(len(entries))
      asked = dataset.source.subjects(numbers, draw)
      images = _draw(dataset, asked, numbers, draw)
      refused = acceptance.objections(dataset.judges, images, asked)
      for number, subject, image, against in zip(
        numbers, asked, images, refused, strict=True
      ):
        quota, _ = dataset.plan.place(number)
        if against:
          again.append(number)
          rejected[quota] += 1
          objections.update(against)
          continue
        entry = tree.write_image(
          dataset.folder,
          dataset.facts,
          image,
          subject,
          number=number,
          quota=quota,
          draw=draw,
          shared=shared,
        )
        entries.append(entry)
    remaining = again
    if not remaining:
      break
  return tree.Part(
    entries=tuple(sorted(entries, key=lambda entry: entry.number)),
    missing=tuple(remaining),
    rejected=dict(sorted(rejected.items())),
    objections=dict(sorted(objections.items())),
  )


def _draw(
  dataset: SyntheticDataset,
  asked: list[Subject],
  numbers: list[int],
  draw: int,
) -> np.ndarray:
  """Generates one image a subject."""
  count = len(numbers)
  # Pad with the last, so that encoder and network compile only one shape.
  numbers = [*numbers, *numbers[-1:] * (dataset.batch_size - count)]
  asked = [*asked, *asked[-1:] * (dataset.batch_size - count)]
  images = dataset.generator.generate(
    dataset.run.ema_params,
    dataset.source.conditions(asked, numbers, draw).fields,
    seed=dataset.seed,
    numbers=np.asarray(numbers) + draw * STRIDE,
    batch_size=dataset.batch_size,
  )
  return images[:count]


def _chunks(numbers: list[int], size: int) -> Iterator[list[int]]:
  for start in range(0, len(numbers), size):
    yield numbers[start : start + size]


def _check_room(dataset: SyntheticDataset, num_images: int) -> None:
  """Refuses a disk without room for the images, of which PNG saves about half."""
  if not artifacts.is_remote(dataset.folder):
    disk.check_room(
      dataset.folder,
      num_images * dataset.run.card.image_size**2 // 2,
      f"{num_images:,} images",
      "free disk space, or name another folder",
    )
