"""Edits images with a trained run: variations, inpainting, counterfactuals.

EditInputs, Conditions --pair--> fields with latents and masks --sample--> Edited
  masks: where they are black, the image's own pixels are kept bit for bit
  inversion: each image is also regenerated with its own condition (the round trip)
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import conditions as conditions_lib
from cxr_diffusion_jax.sampling import decoding, image_to_image
from cxr_diffusion_jax.sampling import edit_inputs as inits_lib
from cxr_diffusion_jax.sampling import files as sample_files
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling import request as request_lib
from cxr_diffusion_jax.sampling import sample as sampling
from cxr_diffusion_jax.sampling.edit_inputs import EditInputs
from cxr_diffusion_jax.sampling.request import Conditions, Request

# No guidance, as in the inversion itself.
PLAIN = {"guidance": 1.0, "guidance_interval": (), "guidance_rescale": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edited:
  """Edited images; row i of every field belongs to image i.

  Attributes:
    inits: uint8 [n h w 1], the input of each image.
    masks: bool [n h w 1], True where pixels were generated; None for none.
    round_trips: uint8 [n h w 1], each input inverted and regenerated with its own
      condition; None without an inversion.
  """

  samples: sampling.Samples
  inits: np.ndarray
  masks: np.ndarray | None
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
  edit_request: inits_lib.EditRequest,
  request: Request,
  *,
  changes: artifacts.JsonMapping,
  per_condition: int = 1,
  num: int | None = None,
  batch_size: int = 16,
  progress: types.Progress = types.no_progress,
  **options: Any,
) -> Edited:
  """Reads images and masks, builds conditions, and edits.

  Args:
    edit_request: the images, and how they are edited.
    request: as many conditions as images, one for all images, or several for one image;
      if it has none, the images' own conditions are used.
    per_condition: images of each pair, with different noise; an inversion has no noise.
    num: total number of images; by default each pair once or `per_condition` times.
    **options: `seed` and `weak_step`, see `sampling.sample`.

  Raises:
    errors.InputError: an unreadable file, incompatible numbers of images and
      conditions, settings out of range, or no such checkpoint.
  """
  plan, inits = edit_request.plan, inits_lib.read(run, edit_request)
  # Fail on wrong settings before any encoder runs.
  generate_lib.make_generator(run.recipe, changes, plan=plan)
  wanted = inits_lib.request_of(request, inits, builder.needs.inputs)
  conditions = builder.build(wanted, len(inits))
  n = max(len(inits), len(conditions))
  if {len(inits), len(conditions)} - {1, n}:
    raise errors.InputError(
      f"{len(inits)} images with {len(conditions)} conditions",
      "as many of each, or one of a kind",
    )
  per_condition = 1 if plan.inverted else per_condition
  num = num or n * per_condition
  common = {"batch_size": batch_size, "progress": progress, "plan": plan}
  fields = _fields(run, builder, inits, plan)
  which = np.arange(n) % len(inits)
  paired = conditions.take(np.arange(n) % len(conditions))
  values = [_entry(builder, inits, plan, int(i)) for i in which]
  paired = dataclasses.replace(
    paired,
    fields=paired.fields | {name: value[which] for name, value in fields.items()},
    entries=[{**entry, **of} for entry, of in zip(paired.entries, values, strict=True)],
  )
  samples = sampling.sample(
    run, paired, num=num, per_condition=per_condition, changes=changes, **common,
    **options,
  )  # fmt: skip
  of_image = which[np.arange(num) // min(per_condition, num) % n]
  back, lost = None, []
  if plan.inverted:
    back, lost = _round_trip(run, inits, fields, changes, common)
    for entry, i in zip(samples.entries, of_image, strict=True):
      entry["round_trip"] = lost[i]
  return Edited(
    samples=_described(samples, inits, plan, of_image, lost),
    inits=inits.images[of_image],
    masks=None if inits.masks is None else inits.masks[of_image],
    round_trips=None if back is None else back[of_image],
  )


def write(edited: Edited, out: pathlib.Path) -> None:
  """Writes the files of `sample_files.write`, and the input images."""
  samples, inits = edited.samples, edited.inits
  above, below = [("init", inits)], []
  (out / "inits").mkdir()
  if edited.masks is not None:
    (out / "masks").mkdir()
    above.append(("mask", edited.masks.astype(np.uint8) * 255))
  if edited.round_trips is not None:
    # Mid-grey means no difference; white means brighter than before.
    change = (samples.images.astype(np.int16) - inits) // 2 + 128
    below.append(("difference", change.clip(0, 255).astype(np.uint8)))
    below.append(("round trip", edited.round_trips))
  for row, entry in enumerate(samples.entries):
    Image.fromarray(inits[row, ..., 0]).save(out / entry["init_file"])
    if edited.masks is not None:
      Image.fromarray(above[-1][1][row, ..., 0]).save(out / entry["mask_file"])
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
  fields = {image_to_image.INIT: encode(pixels)}
  if plan.masked:
    fields[image_to_image.MAKE] = inits.masks
  if plan.inverted:
    own = request_lib.join_rows([_own(builder, image_id) for image_id in inits.ids])
    fields |= {
      f"{image_to_image.SOURCE}{name}": np.asarray(value)
      for name, value in own.fields.items()
    }
  return fields


def _has_own(builder: conditions_lib.ConditionBuilder, image_id: str) -> bool:
  """Whether the records hold a condition of this very image."""
  return bool(image_id) and builder.needs.reference == "self"


def _own(builder: conditions_lib.ConditionBuilder, image_id: str) -> Conditions:
  """Returns the condition of an image itself, as far as it is known."""
  known = Request(image_ids=(image_id,)), Request(unconditional=True)
  return builder.build(known[0] if _has_own(builder, image_id) else known[1], 1)


def _entry(
  builder: conditions_lib.ConditionBuilder,
  inits: EditInputs,
  plan: image_to_image.Plan,
  i: int,
) -> artifacts.Json:
  """The entry of samples.json about the image that was edited."""
  entry = {**inits.entries[i], "init_file": f"inits/{inits.names[i]}.png"}
  if plan.masked:
    entry["mask_file"] = f"masks/{inits.names[i]}.png"
  if plan.inverted:
    own = _has_own(builder, inits.ids[i])
    entry["source"] = "its own condition" if own else "no condition"
  return entry


def _round_trip(
  run: run_lib.Run,
  inits: EditInputs,
  fields: types.Batch,
  changes: artifacts.JsonMapping,
  common: artifacts.JsonMapping,
) -> tuple[np.ndarray, list[dict[str, float | None]]]:
  """Inverts each image and generates it unchanged; returns the images and errors."""
  source = image_to_image.source_of(fields)
  same = Conditions(
    fields=source | fields,
    entries=list(inits.entries),
    names=list(inits.names),
    references=None,
  )
  changes = {**changes, **PLAIN}
  samples = sampling.sample(run, same, num=len(inits), changes=changes, **common)
  back, cost = samples.images, samples.settings["evaluations_per_image"]
  error = back.astype(np.float64) - inits.images
  values = []
  for one in error:
    mean_square = float(np.mean(one**2))
    # It is infinite for equal images, which JSON cannot represent.
    psnr = float(10 * np.log10(255**2 / mean_square)) if mean_square else None
    grey = float(np.abs(one).mean())
    values.append({"psnr_db": psnr, "mean_abs_grey_levels": grey, "evaluations": cost})
  return back, values


def _described(
  samples: sampling.Samples,
  inits: EditInputs,
  plan: image_to_image.Plan,
  of_image: np.ndarray,
  lost: list[dict[str, float | None]],
) -> sampling.Samples:
  """Adds the edit to settings and title, and restores the pixels that are kept."""
  edit: artifacts.Json = {**dataclasses.asdict(plan)}
  images, how = samples.images, f"strength {plan.strength:g}"
  if plan.masked:
    images = np.where(inits.masks[of_image], images, inits.images[of_image])
    how = f"inpainted, {how}"
  if plan.inverted:
    how = f"inverted, {how}"
    known = [one["psnr_db"] for one in lost if one["psnr_db"] is not None]
    edit["round_trip"] = {
      "psnr_db": float(np.mean(known)) if known else None,
      "mean_abs_grey_levels": float(
        np.mean([one["mean_abs_grey_levels"] for one in lost])
      ),
      "evaluations_per_image": lost[0]["evaluations"],
    }
  return dataclasses.replace(
    samples,
    images=images,
    settings={**samples.settings, "image_to_image": edit},
    title=f"{samples.title}, {how}",
  )
