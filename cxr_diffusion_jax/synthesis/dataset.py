"""A synthetic dataset that is to be made: its run, plan, subjects, judges and folder.

run, plan, settings --prepare--> SyntheticDataset, and the folder is claimed for it

What the images depend on is written to the folder: another call there is refused.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json

from etils import epath

from cxr_diffusion_jax import artifacts, errors, naming
from cxr_diffusion_jax.data import splits
from cxr_diffusion_jax.run.run import Run
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling import image_parts
from cxr_diffusion_jax.synthesis import plan as plan_lib
from cxr_diffusion_jax.synthesis import subjects, tree
from cxr_diffusion_jax.synthesis.acceptance import AcceptanceJudge

# Images of a part, at least: what a kill may lose.
PART_SIZE = 64

# Draws of one image have different noise: number + draw * STRIDE, below 2^31.
STRIDE = 2**24
MAX_DRAWS = 100


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticDataset:
  """A dataset to make into a folder.

  Attributes:
    facts: all that the images depend on.
    keep_ids: whether the table names the real image of each condition.
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
  keep_ids: bool = False

  @property
  def part_size(self) -> int:
    """Images of a part: a multiple of the batch."""
    return self.batch_size * -(-PART_SIZE // self.batch_size)

  @property
  def num_parts(self) -> int:
    """Parts of the whole dataset."""
    return -(-len(self.plan) // self.part_size)

  def numbers(self, part: int) -> range:
    """The images of a part."""
    start = part * self.part_size
    return range(start, min(start + self.part_size, len(self.plan)))


def prepare(
  run: Run,
  plan: plan_lib.Plan,
  out: artifacts.PathLike,
  *,
  split: str = "validation",
  seed: int = 0,
  changes: artifacts.JsonMapping | None = None,
  open_judges_fn: Callable[[], Sequence[AcceptanceJudge]] = tuple,
  max_draws: int = 10,
  batch_size: int = 32,
  keep_ids: bool = False,
) -> SyntheticDataset:
  """Prepares a dataset, or an earlier call's to be resumed.

  Args:
    out: folder of the dataset, local or in a bucket.
    split: where conditions come from, for paths that need an image.
    changes: to the run's sample settings.
    open_judges_fn: called last, as it may train a judge.
    keep_ids: whether the table names the real image of each condition.

  Raises:
    errors.InputError: a folder of another dataset, a quota that has no condition, or
      settings out of range.
  """
  naming.check("the split", split, splits.SPLITS)
  if not 1 <= max_draws <= MAX_DRAWS:
    raise errors.InputError(f"{max_draws} draws of an image", f"1 to {MAX_DRAWS}")
  if len(plan) > STRIDE:
    raise errors.InputError(f"{len(plan):,} images", f"{STRIDE:,} or fewer")
  generator = generate_lib.make_generator(run.recipe, changes)
  facts = {
    **_facts(run, plan, generator),
    "seed": seed,
    "split": split,
    "batch_size": batch_size,
    "max_draws": max_draws,
  }
  source = subjects.open_source(run, plan, split=split, seed=seed)
  tree.check(out, facts)
  judges = open_judges_fn()
  facts["judges"] = [
    {"title": judge.title, "fingerprint": judge.fingerprint} for judge in judges
  ]
  return SyntheticDataset(
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
    keep_ids=keep_ids,
  )


def _facts(
  run: Run, plan: plan_lib.Plan, generator: generate_lib.Generator
) -> artifacts.Json:
  """What the images depend on besides the arguments of `prepare`, as read back."""
  settings = dataclasses.asdict(generator.settings)
  del settings["num_images"]
  facts = {
    "data": run.card.fingerprint,
    "checkpoint_step": run.checkpoint_step,
    "ema_length": run.ema_length,
    "weights": image_parts.weights_digest(run),
    "settings": settings,
    "plan": [dataclasses.asdict(quota) for quota in plan.quotas],
  }
  return json.loads(json.dumps(facts))
