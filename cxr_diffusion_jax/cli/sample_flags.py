"""Flags of `sample` that come in groups: conditions, and images to make others from.

flags --conditions, image_to_image--> holders --request, asked--> what is asked for

They are defined by functions, so that each call of the main has its own.
"""

from absl import flags

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.sampling import edit_inputs as inits_lib
from cxr_diffusion_jax.sampling import request as request_lib

Holders = dict[str, flags.FlagHolder]

# They are the flags of the main that asks for them.
flags.disclaim_key_flags()


def conditions() -> Holders:
  """Defines the flags that say what to generate."""
  text, texts = flags.DEFINE_string, flags.DEFINE_multi_string
  return {
    "split": text("split", "test", "Split that conditions are taken from."),
    "image_ids": flags.DEFINE_list("image_ids", [], "Images to take conditions from."),
    "prompt": texts("prompt", [], "A text; may be repeated."),
    "prompt_file": text("prompt_file", "", "A text file, one prompt a line."),
    "findings": texts("findings", [], "Such as Effusion,Cardiomegaly."),
    "age": flags.DEFINE_float("age", None, "Years.", 0, 120),
    "sex": flags.DEFINE_enum("sex", "", ["", "F", "M"], "Of the patient."),
    "view": flags.DEFINE_enum("view", "", ["", "PA", "AP"], "Of the X-ray."),
    "reference": texts("reference", [], "A PNG, JPEG or DICOM file."),
    "negative_prompt": text("negative_prompt", "", "What to lead away from."),
    "unconditional": flags.DEFINE_bool("unconditional", False, "With no condition."),
  }


def request(holders: Holders) -> request_lib.Request:
  """Reads the flags of `conditions`.

  Raises:
    errors.InputError: a file of prompts that cannot be read.
  """
  given = {name: holder.value for name, holder in holders.items()}
  prompts = list(given["prompt"])
  if given["prompt_file"]:
    prompts += request_lib.read_prompts(given["prompt_file"])
  return request_lib.Request(
    split=given["split"],
    image_ids=tuple(given["image_ids"]),
    prompts=tuple(prompts),
    findings=tuple(given["findings"]),
    age=given["age"],
    sex=given["sex"],
    view=given["view"],
    references=tuple(given["reference"]),
    negative_prompt=given["negative_prompt"],
    unconditional=given["unconditional"],
  )


def image_to_image() -> Holders:
  """Defines the flags of images to make others from."""
  texts = flags.DEFINE_multi_string
  return {
    "init": texts("init", [], "Make images from this one: a file, or an image's id."),
    "mask": texts("mask", [], "Of --init: white is made anew, black stays."),
    "strength": flags.DEFINE_float(
      "strength", None, "How far from --init, in (0, 1]; 0.6, or 1 with --mask."
    ),
    "invert": flags.DEFINE_bool(
      "invert", False, "Find the noise of --init first: the same chest, but for"
      " what is asked for.",
    ),
    "invert_repeats": flags.DEFINE_integer(
      "invert_repeats", 1, "Evaluations for each step of --invert."
    ),
  }  # fmt: skip


def asked(holders: Holders, others: list[str]) -> inits_lib.Asked | None:
  """Reads the flags of `image_to_image`; None where they are not given.

  Args:
    holders: of the flags.
    others: flags that were given and say what else to make.

  Raises:
    errors.InputError: they do not go together, or are out of range.
  """
  given = {name: holder.value for name, holder in holders.items()}
  if not given["init"]:
    alone = [name for name, holder in holders.items() if holder.value != holder.default]
    if alone:
      raise errors.InputError(
        f"--{alone[0]} without --init", "an image to make others from"
      )
    return None
  if others:
    raise errors.InputError(f"--init with --{others[0]}", "one of them")
  return inits_lib.Asked(
    inits=tuple(given["init"]),
    masks=tuple(given["mask"]),
    strength=given["strength"],
    invert=given["invert"],
    repeats=given["invert_repeats"],
  )
