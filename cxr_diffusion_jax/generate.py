"""Makes a synthetic dataset of a trained run: planned, filtered, resumable.

  python -m cxr_diffusion_jax.generate --workdir runs/findings --out synthetic-cxr \\
    --plan balanced --num 10000 [--accept probe] [--shard 0/4]
  ... --plan plan.csv    # columns findings, sex, age, view, num; each row is a quota

Writes OUT/original/*.png, OUT/Data_Entry_2017.csv, OUT/datasheet.md and
OUT/manifest.json: a tree that --config.data.root=OUT trains on. The same command
resumes an interrupted dataset. Exit code 1 if a quota cannot be filled.
"""

import sys
import typing

from absl import flags
from etils import epath

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import command, flag_help, sample_flags, terminal

if typing.TYPE_CHECKING:
  from cxr_diffusion_jax.synthesis import production as production_lib

BALANCED = "balanced"

with flag_help.group("Run"):
  _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
  _OUT = flags.DEFINE_string("out", None, "Folder of the dataset.", required=True)
  _CHECKPOINT = sample_flags.checkpoint()
  _LENGTH = flags.DEFINE_float(
    "ema_length", None, "Length of the parameters' average, made of snapshots."
  )
with flag_help.group("Which images"):
  _PLAN = flags.DEFINE_string(
    "plan",
    BALANCED,
    "Either balanced, for equally many of each finding and of No Finding, by sex, age"
    " and view, or a CSV of quotas.",
  )
  _NUM = flags.DEFINE_integer(
    "num", None, "Number of images; not with a plan that has a column num.", 1
  )
  _SPLIT = flags.DEFINE_string(
    "split",
    "validation",
    "Split to take conditions from, for paths that need an image. Training images"
    " elicit copies of themselves, and test images leak into what is trained.",
  )
  _KEEP_IDS = flags.DEFINE_bool(
    "keep_ids", False, "Name the real image of each condition in the table."
  )
  _SEED = flags.DEFINE_integer("seed", 0, "Seed of conditions and noise.", 0, 2**32 - 1)
  _BATCH = flags.DEFINE_integer("batch_size", 32, "Images generated at a time.", 1)
  _SHARD = flags.DEFINE_string(
    "shard", "0/1", "P/N: this process makes every Nth part, from part P on."
  )
with flag_help.group("Filter"):
  _ACCEPT = flags.DEFINE_list(
    "accept",
    [],
    "Judges that reject images: probe, densenet=FILE, NAME.onnx or NAME.safetensors of"
    " a classifier with NAME.json next to it.",
  )
  _DRAWS = flags.DEFINE_integer("max_draws", 10, "Draws of each image at most.", 1)
_SETTINGS = sample_flags.settings()
_PLACES = sample_flags.places()


def main() -> None:
  """Reads the plan, makes the images, and says what is in the folder."""
  from cxr_diffusion_jax.run import card as card_lib
  from cxr_diffusion_jax.run import locks
  from cxr_diffusion_jax.run import run as run_lib
  from cxr_diffusion_jax.synthesis import acceptance, rows
  from cxr_diffusion_jax.synthesis import dataset as dataset_lib
  from cxr_diffusion_jax.synthesis import plan as plan_lib
  from cxr_diffusion_jax.synthesis import production as production_lib

  terminal.announce_compiling()
  workdir, shard = epath.Path(_WORKDIR.value), sample_flags.shard(_SHARD.value)
  plan = None
  if _PLAN.value != BALANCED:
    # A wrong plan is refused before a model is loaded.
    _, card = card_lib.read(workdir)
    plan = plan_lib.read(_PLAN.value, card.vocabulary, _NUM.value)
  elif _NUM.value is None:
    raise errors.InputError(f"--plan {BALANCED}", "with --num, the number of images")
  which = {"checkpoint": _CHECKPOINT.value, "ema_length": _LENGTH.value}
  run = run_lib.open_run(workdir, **which, **sample_flags.values(_PLACES))
  # Of several shards, one makes the records and trains the probe.
  with locks.alone(workdir / card_lib.CONFIG):
    dataset = dataset_lib.prepare(
      run,
      plan or rows.balanced(run, _SPLIT.value, _NUM.value or 0),
      _OUT.value,
      split=_SPLIT.value,
      seed=_SEED.value,
      changes=sample_flags.changes(_SETTINGS),
      open_judges_fn=lambda: acceptance.open_judges(
        run, _ACCEPT.value, progress=command.progress
      ),
      max_draws=_DRAWS.value,
      batch_size=_BATCH.value,
      keep_ids=_KEEP_IDS.value,
    )
  _report(production_lib.make(dataset, shard=shard, progress=command.progress))


def _report(outcome: "production_lib.Outcome") -> None:
  """Prints what was made; ends with exit code 1 if a quota was not filled."""
  whole = outcome.whole
  text = f"{len(whole.entries):,} images: {_OUT.value}"
  if rejected := sum(whole.rejected.values()):
    text += f"; {rejected:,} were rejected"
  if outcome.remaining_parts:
    text += f"; {outcome.remaining_parts} parts remain for other shards"
  print(text)
  if outcome.short:
    title, count = outcome.short[0]
    terminal.TERMINAL.write(
      f"error: quotas that are not filled: {len(outcome.short)}, first {title!r}, which"
      f" lacks {count} images after {_DRAWS.value} draws of each; fix: a larger"
      " --max_draws, or another model or judge, into a new folder"
    )
    sys.exit(1)


if __name__ == "__main__":
  command.run(main)
