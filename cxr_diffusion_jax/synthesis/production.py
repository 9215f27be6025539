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
import json

from etils import epath
import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.parallel import distributed
from cxr_diffusion_jax.run.run import Run
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling import image_parts
from cxr_diffusion_jax.synthesis import (
  acceptance,
  datasheet,
  locks,
  rows,
  subjects,
  tree,
)
from cxr_diffusion_jax.synthesis import plan as plan_lib
from cxr_diffusion_jax.synthesis.acceptance import AcceptanceJudge
from cxr_diffusion_jax.synthesis.rows import Subject

# Images of a part, at least: what a kill may lose.
PART_SIZE = 64

# Draws of one image have different noise: number + draw * STRIDE, below 2^31.
STRIDE = 2**24
MAX_DRAWS = 100


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Production:
  """A dataset to make into a folder.

  Attributes:
    facts: all that the images depend on.
    max_draws: draws of each image at most.
  """

  run: Run
  plan: plan_lib.Plan
  source: subjects.SubjectSource
  judges: Sequence[AcceptanceJudge]
  generator: generate_lib.Generator
  folder: epath.Path
  facts: artifacts.Json
  seed: int
  batch_size: int
  max_draws: int

  @property
  def part_size(self) -> int:
    """Images of a part: a multiple of the batch."""
    return self.batch_size * -(-PART_SIZE // self.batch_size)

  @property
  def num_parts(self) -> int:
    """Parts of the whole dataset."""
    return -(-len(self.plan) // self.part_size)


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


def prepare(
  run: Run,
  plan: plan_lib.Plan,
  out: artifacts.PathLike,
  *,
  split: str = "validation",
  seed: int = 0,
  changes: artifacts.JsonMapping | None = None,
  judges: Sequence[AcceptanceJudge] = (),
  max_draws: int = 10,
  batch_size: int = 32,
) -> Production:
  """Prepares a dataset, or an earlier call's to be resumed.

  Args:
    out: folder of the dataset, local or in a bucket.
    split: where conditions come from, for paths that need an image.
    changes: to the run's sample settings.

  Raises:
    errors.InputError: a folder of another dataset, a quota that has no condition, or
      settings out of range.
  """
  if not 1 <= max_draws <= MAX_DRAWS:
    raise errors.InputError(f"{max_draws} draws of an image", f"1 to {MAX_DRAWS}")
  if len(plan) > STRIDE:
    raise errors.InputError(f"{len(plan):,} images", f"{STRIDE:,} or fewer")
  generator = generate_lib.make_generator(run.recipe, changes)
  settings = dataclasses.asdict(generator.settings)
  del settings["num_images"]
  facts: artifacts.Json = {
    "data": run.card.fingerprint,
    "checkpoint_step": run.checkpoint_step,
    "ema_length": run.ema_length,
    "weights": image_parts.weights_digest(run),
    "settings": settings,
    "seed": seed,
    "split": split,
    "batch_size": batch_size,
    "max_draws": max_draws,
    "judges": [
      {"title": judge.title, "fingerprint": judge.fingerprint} for judge in judges
    ],
    "plan": [dataclasses.asdict(quota) for quota in plan.quotas],
  }
  # As they are read back.
  facts = json.loads(json.dumps(facts))
  source = subjects.open_source(run, plan, split=split, seed=seed)
  return Production(
    run=run,
    plan=plan,
    source=source,
    judges=judges,
    generator=generator,
    folder=tree.claim(out, facts),
    facts=facts,
    seed=seed,
    batch_size=batch_size,
    max_draws=max_draws,
  )


def make(
  production: Production,
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
  own = range(first, production.num_parts, step)
  with (
    distributed.signals() as received,
    artifacts.disk_errors(production.folder),
    locks.parts(production.folder / tree.FACTS, own),
  ):
    _make_parts(production, own, received, progress)
  with artifacts.disk_errors(production.folder):
    return _finish(production)


def _make_parts(
  production: Production,
  own: range,
  received: Sequence[int],
  progress: types.Progress,
) -> None:
  """Makes those of some parts that are not whole, until a signal is received."""
  sizes = {part: len(_numbers(production, part)) for part in own}
  whole = tree.read_parts(production.folder, own)
  total, done = sum(sizes.values()), sum(sizes[part] for part in whole)
  _check_room(production, total - done)
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

    tree.write_part(production.folder, part, _make_part(production, part, report))
    done += sizes[part]
    progress("images", done, total)


def _finish(production: Production) -> Outcome:
  """Writes the table and the datasheet if all parts are there."""
  parts = tree.read_parts(production.folder, range(production.num_parts))
  whole = tree.merge(list(parts.values()))
  remaining = production.num_parts - len(parts)
  if not remaining:
    text = datasheet.text(
      production.run, production.plan, production.facts, whole, production.judges
    )
    tree.finish(production.folder, whole, production.run.card.vocabulary, text)
  missing = Counter(production.plan.place(number)[0] for number in whole.missing)
  quotas = production.plan.quotas
  return Outcome(
    whole=whole,
    remaining_parts=remaining,
    short=tuple((quotas[row].title, missing[row]) for row in sorted(missing)),
  )


def _numbers(production: Production, part: int) -> range:
  start = part * production.part_size
  return range(start, min(start + production.part_size, len(production.plan)))


def _make_part(
  production: Production, part: int, report: Callable[[int], None]
) -> tree.Part:
  """Draws the images of a part until each is accepted or has had all its draws."""
  remaining = list(_numbers(production, part))
  shared = rows.reads_images(production.run)
  entries: list[tree.Entry] = []
  rejected, objections = Counter(), Counter()
  for draw in range(production.max_draws):
    again = []
    for numbers in _chunks(remaining, production.batch_size):
      report(len(entries))
      asked = production.source.subjects(numbers, draw)
      images = _draw(production, asked, numbers, draw)
      refused = acceptance.objections(production.judges, images, asked)
      for number, subject, image, against in zip(
        numbers, asked, images, refused, strict=True
      ):
        quota, _ = production.plan.place(number)
        if against:
          again.append(number)
          rejected[quota] += 1
          objections.update(against)
          continue
        entry = tree.write_image(
          production.folder,
          production.facts,
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
  production: Production,
  asked: Sequence[Subject],
  numbers: Sequence[int],
  draw: int,
) -> np.ndarray:
  """Generates one image a subject; pads with the last, to compile only one shape."""
  conditions = production.source.conditions(asked, numbers, draw)
  padded = np.minimum(np.arange(production.batch_size), len(numbers) - 1)
  images = production.generator.generate(
    production.run.ema_params,
    conditions.take(padded).fields,
    seed=production.seed,
    numbers=np.asarray(numbers)[padded] + draw * STRIDE,
    batch_size=production.batch_size,
  )
  return images[: len(numbers)]


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
  for start in range(0, len(numbers), size):
    yield numbers[start : start + size]


def _check_room(production: Production, num_images: int) -> None:
  """Refuses a disk without room for the images, of which PNG saves about half."""
  if not artifacts.is_remote(production.folder):
    artifacts.check_room(
      production.folder,
      num_images * production.run.card.image_size**2 // 2,
      f"{num_images:,} images",
      "free disk space, or name another folder",
    )
