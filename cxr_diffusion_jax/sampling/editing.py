"""Edits images with a trained run: variations, inpainting, counterfactuals.

EditInputs, Conditions --pair--> fields with latents and masks --sample--> Edited
  masks: where they are black, the image's own pixels are kept bit for bit
  inversion: each image is also regenerated with its own condition (the round trip)
"""

import dataclasses
import functools
import pathlib

import numpy as np
from PIL import Image

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import conditions as conditions_lib
from cxr_diffusion_jax.sampling import decoding, edit_inputs, image_to_image
from cxr_diffusion_jax.sampling import files as sample_files
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling import request as request_lib
from cxr_diffusion_jax.sampling import sample as sampling
from cxr_diffusion_jax.sampling.edit_inputs import EditInputs
from cxr_diffusion_jax.sampling.request import Conditions, Request

COST = "evaluations_per_image"

# No guidance, as in the inversion itself.
PLAIN = {"guidance": 1.0, "guidance_interval": (), "guidance_rescale": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edited:
  """Edited images [n h w 1]; row i of every field belongs to image i."""

  samples: sampling.Samples
  inits: np.ndarray  # uint8, the input of each image
  masks: np.ndarray | None  # bool, True where pixels were generated
  # uint8, each input inverted and regenerated with its own condition; or None.
  round_trips: np.ndarray | None

  @property
  def summary(self) -> list[str]:
    """Returns a line with the mean error of the round trip, if there is one."""
    values = self.samples.settings["image_to_image"].get("round_trip")
    if not values:
      return []
    psnr = "exact" if values["psnr_db"] is None else f"PSNR {values['psnr_db']:.1f} dB"
    return [
      f"round trip without a change: {psnr},"
      f" {values['mean_abs_grey_levels']:.2f} of 255 grey levels off on average"
    ]


def make(
  run: run_lib.Run,
  builder: conditions_lib.ConditionBuilder,
  edit_request: edit_inputs.EditRequest,
  request: Request,
  *,
  changes: artifacts.JsonMapping,
  per_condition: int = 1,
  num: int | None = None,
  seed: int = 0,
  weak_step: int | None = None,
  batch_size: int = 16,
  progress: types.Progress = types.no_progress,
) -> Edited:
  """Reads images and masks, builds conditions, and edits.

  Args:
    edit_request: the images, and how they are edited.
    request: as many conditions as images, one for all images, or several for one image;
      if it has none, the images' own conditions are used.
    per_condition: images of each pair, with different noise; an inversion has no noise.
    num: total number of images; by default each pair once or `per_condition` times.
    seed: this and `weak_step` as in `sampling.sample`.

  Raises:
    errors.InputError: an unreadable file, incompatible numbers of images and
      conditions, settings out of range, or no such checkpoint.
  """
  plan, inits = edit_request.plan, edit_inputs.read(run, edit_request)
  # Fail on wrong settings before any encoder runs.
  generate_lib.make_generator(run.recipe, changes, plan=plan)
  wanted = edit_inputs.request_of(request, inits, builder.needs.inputs)
  conditions = builder.build(wanted, len(inits))
  num_pairs = _check_pairs(inits, conditions)
  per_condition = 1 if plan.inverted else per_condition
  num = num or num_pairs * per_condition
  fields = _fields(run, builder, inits, plan)
  sample = functools.partial(
    sampling.sample, run, batch_size=batch_size, plan=plan, progress=progress
  )
  samples = sample(
    _paired(conditions, inits, fields),
    num=num,
    per_condition=per_condition,
    changes=changes,
    seed=seed,
    weak_step=weak_step,
  )
  of_image = np.arange(num) // min(per_condition, num) % num_pairs % len(inits)
  back = None
  if plan.inverted:
    own = _own_conditions(inits, fields)
    back = sample(own, num=len(inits), changes={**changes, **PLAIN})
  return Edited(
    samples=_described(samples, inits, plan, of_image, back),
    inits=inits.images[of_image],
    masks=None if inits.masks is None else inits.masks[of_image],
    round_trips=None if back is None else back.images[of_image],
  )


def write(edited: Edited, out: pathlib.Path) -> None:
  """Writes the files of `sample_files.write`, and the input images."""
  samples, inits = edited.samples, edited.inits
  above, below, saved = [("init", inits)], [], {"init_file": inits}
  if edited.masks is not None:
    saved["mask_file"] = edited.masks.astype(np.uint8) * 255
    above.append(("mask", saved["mask_file"]))
  if edited.round_trips is not None:
    # Mid-grey means no difference; white means brighter than before.
    change = (samples.images.astype(np.int16) - inits) // 2 + 128
    below.append(("difference", change.clip(0, 255).astype(np.uint8)))
    below.append(("round trip", edited.round_trips))
  for key, images in saved.items():
    for entry, image in zip(samples.entries, images, strict=True):
      (out / entry[key]).parent.mkdir(exist_ok=True)
      Image.fromarray(image[..., 0]).save(out / entry[key])
  sample_files.write(samples, out, above, below)


def _fields(
  run: run_lib.Run,
  builder: conditions_lib.ConditionBuilder,
  inits: EditInputs,
  plan: image_to_image.Plan,
) -> types.Batch:
  """Returns the fields [k ...] that a plan reads: latents, masks, own conditions."""
  encode = decoding.make_encode(run.recipe.denoiser.codec, run.recipe.mesh)
  pixels = inits.images.astype(np.float32) / np.float32(127.5) - 1
  fields: types.Batch = {image_to_image.INIT: encode(pixels)}
  if inits.masks is not None:
    fields[image_to_image.MAKE] = inits.masks
  if plan.inverted:
    own = request_lib.join_rows([builder.build(request, 1) for request in inits.own])
    for name, value in own.fields.items():
      fields[f"{image_to_image.SOURCE}{name}"] = value
  return fields


def _own_conditions(inits: EditInputs, fields: types.Batch) -> Conditions:
  """The conditions that the images were inverted with, for the round trip."""
  return Conditions(
    fields=image_to_image.source_of(fields) | fields,
    entries=inits.entries,
    names=inits.names,
    references=None,
  )


def _check_pairs(inits: EditInputs, conditions: Conditions) -> int:
  """The number of pairs; refuses numbers that do not pair."""
  counts = {len(inits), len(conditions)}
  if counts - {1, max(counts)}:
    raise errors.InputError(
      f"{len(inits)} images with {len(conditions)} conditions",
      "as many of each, or one of a kind",
    )
  return max(counts)


def _paired(
  conditions: Conditions, inits: EditInputs, fields: types.Batch
) -> Conditions:
  """Conditions and images in pairs; each entry also describes the image."""
  places = np.arange(max(len(inits), len(conditions)))
  which, paired = places % len(inits), conditions.take(places % len(conditions))
  images = [inits.entries[i] for i in which.tolist()]
  return dataclasses.replace(
    paired,
    fields=paired.fields | {name: value[which] for name, value in fields.items()},
    entries=[{**a, **b} for a, b in zip(paired.entries, images, strict=True)],
  )


def _described(
  samples: sampling.Samples,
  inits: EditInputs,
  plan: image_to_image.Plan,
  of_image: np.ndarray,
  back: sampling.Samples | None,
) -> sampling.Samples:
  """Adds the edit to settings, entries and title, and restores the kept pixels."""
  edit: artifacts.Json = dataclasses.asdict(plan)
  images, entries = samples.images, samples.entries
  how = f"strength {plan.strength:g}"
  if inits.masks is not None:
    images = np.where(inits.masks[of_image], images, inits.images[of_image])
    how = f"inpainted, {how}"
  if back is not None:
    how = f"inverted, {how}"
    lost, cost = _errors(back.images, inits.images), back.settings[COST]
    entries = [
      {**entry, "round_trip": {**lost[i], "evaluations": cost}}
      for entry, i in zip(entries, of_image, strict=True)
    ]
    means: artifacts.Json = {}
    for name in ("psnr_db", "mean_abs_grey_levels"):
      known = [one[name] for one in lost if one[name] is not None]
      means[name] = float(np.mean(known)) if known else None
    edit["round_trip"] = {**means, COST: cost}
  return dataclasses.replace(
    samples,
    images=images,
    entries=entries,
    settings={**samples.settings, "image_to_image": edit},
    title=f"{samples.title}, {how}",
  )


def _errors(back: np.ndarray, images: np.ndarray) -> list[artifacts.Json]:
  """The error of each round trip [k h w 1]."""
  values = []
  for error in back.astype(np.float64) - images:
    mean_square = float(np.mean(error**2))
    # It is infinite for equal images, which JSON cannot represent.
    psnr = float(10 * np.log10(255**2 / mean_square)) if mean_square else None
    grey = float(np.abs(error).mean())
    values.append({"psnr_db": psnr, "mean_abs_grey_levels": grey})
  return values
