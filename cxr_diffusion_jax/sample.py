"""Generates images from a trained run.

  python -m cxr_diffusion_jax.sample --workdir runs/elixr_c --num 16 --split test
  ... --prompt "an effusion" | --findings Effusion --age 63 --sex F --view AP
  ... --reference x.png | --image_ids 00000001_000 | --unconditional
  ... --grid guidance=1,2,4 --grid num_steps=10,25 | --interpolate A B
  ... --init x.png --strength 0.6 | --init x.png --mask m.png | --init x.png --invert

Writes OUT/images/*.png, OUT/grid.png, OUT/pairs.png (the condition's image beside the
generated ones) and OUT/samples.json; with --grid or --interpolate OUT/sweep.png or
OUT/walk.png instead. A and B are image ids, X-rays, prompts, or findings. --init edits
images towards the given condition, or their own if none is given. OUT is a new folder
WORKDIR/generated/DATE-TIME_REQUEST by default; a given --out is replaced if an earlier
call wrote it, and refused if it holds other files.
"""

import typing

from absl import flags
from etils import epath

from cxr_diffusion_jax.cli import command, flag_help, sample_flags, terminal

if typing.TYPE_CHECKING:
  from cxr_diffusion_jax.sampling import sample as sampling

with flag_help.group("Run"):
  _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
  _OUT = flags.DEFINE_string(
    "out", "", "Folder to write; a new one in WORKDIR by default."
  )
  _CHECKPOINT = sample_flags.checkpoint()
  _LENGTH = flags.DEFINE_float(
    "ema_length",
    None,
    "Length of the parameters' average, such as 0.07; made of the snapshots that"
    " train.power_ema keeps.",
  )
_CONDITIONS = sample_flags.conditions()
_EDIT = sample_flags.image_to_image()
with flag_help.group("How many"):
  _NUM = flags.DEFINE_integer(
    "num", None, "Number of images; by default 16, or one set a condition.", 1
  )
  _PER = flags.DEFINE_integer("per_condition", 2, "Images of each condition.", 1)
  _SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", -(2**31), 2**32 - 1)
  _BATCH = flags.DEFINE_integer("batch_size", 16, "Images generated at a time.", 1)
  _AUTO = flags.DEFINE_integer(
    "autoguidance", None, "Step of an earlier checkpoint to guide away from."
  )
_SETTINGS = sample_flags.settings()
with flag_help.group("Sweeps"):
  _GRID = flags.DEFINE_multi_string(
    "grid", [], "NAME=VALUE,VALUE,...: a picture of these settings; once or twice."
  )
  _WALK = flags.DEFINE_string(
    "interpolate", "", "Two conditions A B to interpolate between."
  )
_PLACES = sample_flags.places()
with flag_help.group("Encoder"):
  _ELIXR = flags.DEFINE_alias("elixr_models", "encoder")


def main(arguments: list[str]) -> None:
  """Reads the run, generates, and prints where the images are."""
  from cxr_diffusion_jax import artifacts, pictures
  from cxr_diffusion_jax.run import run as run_lib
  from cxr_diffusion_jax.sampling import conditions as conditions_lib
  from cxr_diffusion_jax.sampling import editing, sweeps
  from cxr_diffusion_jax.sampling import files as sample_files
  from cxr_diffusion_jax.sampling import request as request_lib
  from cxr_diffusion_jax.sampling import sample as sampling

  terminal.announce_compiling()
  axes = sample_flags.axes(_GRID.value)
  request = sample_flags.request(_CONDITIONS)
  others = [*(["grid"] if axes else []), *request.given]
  ends = sample_flags.ends(_WALK.value, arguments, others)
  other = [*(["grid"] if axes else []), *(["interpolate"] if ends else [])]
  edit = sample_flags.edit_request(_EDIT, other)
  workdir = epath.Path(_WORKDIR.value)
  which = {"checkpoint": _CHECKPOINT.value, "ema_length": _LENGTH.value}
  run = run_lib.open_run(workdir, **which, **sample_flags.values(_PLACES))
  builder = conditions_lib.ConditionBuilder(run=run)
  topic = request_lib.topic(request, grid=axes, interpolate=ends, edit=edit)
  out = _OUT.value or sample_files.new_name(workdir, topic)
  changes = sample_flags.changes(_SETTINGS)
  if request.plain and _AUTO.value is None:
    # Both branches would be the same, at twice the cost.
    changes.setdefault("guidance", 1.0)
  common = {
    "seed": _SEED.value,
    "changes": changes,
    "weak_step": _AUTO.value,
    "batch_size": _BATCH.value,
    "progress": command.progress,
  }
  with artifacts.new_folder(out) as folder:
    if ends:
      between = builder.between(ends, request.negative_prompt)
      picture, images = sweeps.walk(run, between, num=_NUM.value or 8, **common)
      pictures.save(picture, folder / "walk.png")
      lines = [f"{len(images)} images from one condition to the other: {out}/walk.png"]
    elif axes:
      conditions = builder.build(request, _NUM.value or 4)
      pictures.save(sweeps.grid(run, conditions, axes, **common), folder / "sweep.png")
      lines = [f"{len(conditions)} conditions along {len(axes)} axes: {out}/sweep.png"]
    elif edit:
      common |= {"num": _NUM.value, "per_condition": _PER.value}
      edited = editing.make(run, builder, edit, request, **common)
      editing.write(edited, folder)
      lines = [_summary(edited.samples, out), *edited.summary]
    else:
      count = -(-(_NUM.value or 16) // _PER.value)
      conditions = builder.build(request, count)
      num = _NUM.value or len(conditions) * _PER.value
      common |= {"num": num, "per_condition": _PER.value}
      samples = sampling.sample(run, conditions, **common)
      sample_files.write(samples, folder)
      lines = [_summary(samples, out)]
  print(*lines, sep="\n")


def _summary(samples: "sampling.Samples", out: str | epath.Path) -> str:
  cost = samples.settings["evaluations_per_image"]
  count = len(samples.images)
  return f"{count} images of {samples.title}, {cost} evaluations each: {out}"


if __name__ == "__main__":
  command.run(main)
