"""Flags of `sample` in groups: conditions, settings, and images to start from.

flags --conditions, image_to_image--> holders --request, edit_request--> typed requests

Functions define the flags, so that each call of the main has its own.
"""

from collections.abc import Sequence
import re
import typing

from absl import flags

from cxr_diffusion_jax import artifacts, errors, naming
from cxr_diffusion_jax.cli import command, flag_help
from cxr_diffusion_jax.data import csv_table
from cxr_diffusion_jax.run import sample_section

if typing.TYPE_CHECKING:
  from cxr_diffusion_jax.sampling import edit_inputs as inits_lib
  from cxr_diffusion_jax.sampling import request as request_lib
  from cxr_diffusion_jax.sampling import sweeps

Holders = dict[str, flags.FlagHolder]

# Attribute these flags to the main that defines them.
flags.disclaim_key_flags()


def conditions() -> Holders:
  """Defines the flags of the conditions to generate from."""
  text, texts = flags.DEFINE_string, flags.DEFINE_multi_string
  with flag_help.group("Conditions (by default those of images of the test split)"):
    return {
      "prompt": texts("prompt", [], "A prompt, such as 'pleural effusion, ap view'."),
      "prompt_file": text("prompt_file", "", "A text file with one prompt a line."),
      "findings": texts(
        "findings", [], "Such as Effusion,Edema=?: present, unknown, others absent."
      ),
      "age": flags.DEFINE_float("age", None, "Age of the patient in years.", 0, 120),
      "sex": flags.DEFINE_enum("sex", "", ["", "F", "M"], "Sex of the patient."),
      "view": flags.DEFINE_enum("view", "", ["", "PA", "AP"], "View of the X-ray."),
      "source": text("source", "", "Dataset that images are to be like, of several."),
      "reference": texts("reference", [], "An X-ray: PNG, JPEG or DICOM file."),
      "image_ids": flags.DEFINE_list(
        "image_ids", [], "Images of the dataset to take conditions from."
      ),
      "split": text("split", "test", "Split to take images from."),
      "negative_prompt": text("negative_prompt", "", "A prompt to guide away from."),
      "unconditional": flags.DEFINE_bool("unconditional", False, "Use no condition."),
    }


def checkpoint() -> flags.FlagHolder[str]:
  """Defines the flag of the checkpoint that is read."""
  meaning = "A step, best (of the lowest validation loss) or newest."
  return flags.DEFINE_string("checkpoint", "best", meaning)


def request(holders: Holders) -> "request_lib.Request":
  """Reads the flags of `conditions`.

  Raises:
    errors.InputError: the prompt file cannot be read.
  """
  from cxr_diffusion_jax.sampling import request as request_lib

  given = values(holders)
  file = given.pop("prompt_file")
  prompts = [*given.pop("prompt"), *(read_prompts(file) if file else ())]
  many: artifacts.Json = {"prompts": prompts, "references": given.pop("reference")}
  many |= {name: given.pop(name) for name in ("findings", "image_ids")}
  given |= {name: tuple(texts) for name, texts in many.items()}
  return request_lib.Request(**given)


def read_prompts(path: str) -> list[str]:
  """Reads a text file with one prompt a line; empty lines are skipped.

  Raises:
    errors.InputError: no such file, not a text file, or no prompt in it.
  """
  try:
    lines = csv_table.read_text(path).splitlines()
  except errors.InputError as error:
    raise errors.InputError(
      f"--prompt_file {path} ({error})", "a text file with one prompt a line"
    ) from error
  prompts = [line.strip() for line in lines if line.strip()]
  if not prompts:
    raise errors.InputError(f"--prompt_file {path} without a prompt", "one a line")
  return prompts


def image_to_image() -> Holders:
  """Defines the flags of images to start from."""
  texts = flags.DEFINE_multi_string
  with flag_help.group("Editing"):
    return {
      "init": texts("init", [], "Image to start from: a file, or an image id."),
      "mask": texts("mask", [], "Mask of --init: white is generated, black is kept."),
      "strength": flags.DEFINE_float(
        "strength", None, "How far from --init, in (0, 1]; 0.6, or 1 with --mask."
      ),
      "invert": flags.DEFINE_bool(
        "invert",
        False,
        "Compute the noise of --init first: the same chest, except for the condition.",
      ),
      "invert_repeats": flags.DEFINE_integer(
        "invert_repeats", 1, "Evaluations for each step of --invert."
      ),
    }


def settings() -> Holders:
  """Defines a flag for each sample setting: one table for all commands."""
  define = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
  }
  texts = flag_help.meanings(sample_section.SampleSettings)
  with flag_help.group("Sampler (the run's own settings by default)"):
    holders = {
      knob.name: (flags.DEFINE_list if knob.many else define[knob.kind])(
        knob.name, None, texts[knob.name]
      )
      for knob in sample_section.knobs()
    }
  # The former name, kept for existing scripts.
  return holders | {"steps": flags.DEFINE_alias("steps", "num_steps")}


def changes(holders: Holders) -> dict[str, object]:
  """Returns the values of those flags of `settings` that were given.

  Raises:
    errors.InputError: a text where numbers are expected.
  """
  given = {knob: holders[knob.name].value for knob in sample_section.knobs()}
  return {
    knob.name: command.numbers(knob.name, value) if knob.many else value
    for knob, value in given.items()
    if value is not None
  }


def places() -> Holders:
  """Defines the flags for the present locations of a run's dataset and encoder."""
  text = flags.DEFINE_string
  with flag_help.group("Dataset, if it was moved"):
    holders: Holders = {
      "data_root": text("data_root", "", "Folder of the dataset."),
      "records_dir": text("records_dir", "", "Folder of its records."),
    }
  with flag_help.group("Encoder"):
    meaning = "Folder or hub id of the run's CLIP or ELIXR models, if they were moved."
    return holders | {"encoder": text("encoder", "", meaning)}


def values(holders: Holders) -> artifacts.Json:
  """Returns the values of flags by name."""
  return {name: holder.value for name, holder in holders.items()}


def edit_request(holders: Holders, others: list[str]) -> "inits_lib.EditRequest | None":
  """Reads the flags of `image_to_image`; None if they are not given.

  Args:
    others: names of given flags that are incompatible with these.

  Raises:
    errors.InputError: incompatible flags, or a value out of range.
  """
  from cxr_diffusion_jax.sampling import edit_inputs as inits_lib

  given = values(holders)
  if not given["init"]:
    alone = [name for name, holder in holders.items() if holder.value != holder.default]
    if alone:
      raise errors.InputError(
        f"--{alone[0]} without --init", "an image to make others from"
      )
    return None
  if others:
    raise errors.InputError(f"--init with --{others[0]}", "one of them")
  return inits_lib.EditRequest(
    inits=tuple(given["init"]),
    masks=tuple(given["mask"]),
    strength=given["strength"],
    invert=given["invert"],
    repeats=given["invert_repeats"],
  )


def axes(texts: Sequence[str]) -> "tuple[sweeps.Axis, ...]":
  """Reads the axes of `--grid`, such as 'guidance=1,2,4'.

  Raises:
    errors.InputError: not of this form, an unknown name, or more than two.
  """
  from cxr_diffusion_jax.sampling import sweeps

  # The seed, and settings that take a single value.
  knobs = [knob for knob in sample_section.knobs() if knob.default != ()]
  kinds = {"seed": int, **{knob.name: knob.kind for knob in knobs}}
  result = []
  for text in texts:
    name, _, values = text.partition("=")
    if name not in kinds or not values:
      raise errors.InputError(
        f"--grid {text!r}",
        f"NAME=VALUE,VALUE,... of {', '.join(kinds)}",
        "" if name in kinds else naming.nearest(name, kinds),
      )
    try:
      read = tuple(kinds[name](value) for value in values.split(","))
    except ValueError as error:
      raise errors.InputError(
        f"--grid {text!r}", f"values of type {kinds[name].__name__}"
      ) from error
    result.append(sweeps.Axis(name=name, values=read))
  if len({axis.name for axis in result}) != len(result) or len(result) > 2:
    raise errors.InputError(
      " ".join(f"--grid {text}" for text in texts), "one or two different axes"
    )
  return tuple(result)


def ends(first: str, rest: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
  """Reads the two ends of a walk, `--interpolate FIRST LAST`; () for no walk.

  Args:
    others: names of given flags that are incompatible with a walk.

  Raises:
    errors.InputError: not two ends, arguments without the flag, or an extra flag.
  """
  both = (first, *rest) if first else ()
  if len(both) not in (0, 2) or (rest and not first):
    raise errors.InputError(
      f"arguments {' '.join(both or rest)}",
      "--name=value, and two conditions for --interpolate A B",
    )
  if both and others:
    raise errors.InputError(f"--interpolate with --{others[0]}", "one of them")
  return both


def shard(text: str) -> tuple[int, int]:
  """Reads `--shard P/N`.

  Raises:
    errors.InputError: not two numbers, or not P < N.
  """
  match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
  if not match or int(match[1]) >= int(match[2]):
    raise errors.InputError(f"--shard {text}", "P/N, such as 0/4 to 3/4")
  return int(match[1]), int(match[2])
