"""Images and masks to edit.

x.png or an image's id --read--> square [h w] uint8;  m.png --> [h w] bool, white True
"""

from collections.abc import Sequence
import dataclasses
import pathlib

from absl import logging
import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data import csv_table, reference
from cxr_diffusion_jax.data import images as images_lib
from cxr_diffusion_jax.run.card import DatasetCard
from cxr_diffusion_jax.run.run import Run
from cxr_diffusion_jax.sampling import image_to_image
from cxr_diffusion_jax.sampling import request as request_lib

# The value published for SDEdit, which preserves much of the image.
STRENGTH = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditRequest:
  """A request to edit images; see `image_to_image.Plan`.

  Raises:
    errors.InputError: a wrong number of masks, or what the plan refuses.
  """

  inits: tuple[str, ...]  # one or more X-ray files, or ids of the dataset's images
  masks: tuple[str, ...] = ()  # one for all or one each: white is generated, black kept
  strength: float | None = None  # None: 1 with a mask or an inversion, else `STRENGTH`
  invert: bool = False
  repeats: int = 1

  def __post_init__(self):
    if self.masks and len(self.masks) not in (1, len(self.inits)):
      raise errors.InputError(
        f"{len(self.masks)} masks of {len(self.inits)} images",
        "one for all, or as many",
      )
    # Validates before a run is opened.
    _ = self.plan

  @property
  def plan(self) -> image_to_image.Plan:
    """How the images are edited."""
    masked, strength = bool(self.masks), self.strength
    if strength is None:
      strength = 1.0 if masked or self.invert else STRENGTH
    return image_to_image.Plan(
      strength=strength, masked=masked, inverted=self.invert, repeats=self.repeats
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditInputs:
  """The k input images; row i of every field belongs to image i."""

  images: np.ndarray  # uint8 [k h w 1], of the run's size
  masks: np.ndarray | None  # bool [k h w 1], True where pixels are generated
  entries: Sequence[artifacts.JsonMapping]  # descriptions for samples.json
  names: Sequence[str]  # safe for use in file names
  ids: Sequence[str]  # "" for files
  own: Sequence[request_lib.Request]  # for their own conditions, as far as known

  def __len__(self) -> int:
    return len(self.names)


def read(run: Run, request: EditRequest) -> EditInputs:
  """Reads images and masks as squares of the run's size.

  Raises:
    errors.InputError: neither a file nor an id; a mask that differs in size from its
      image or is black everywhere.
  """
  shown, ids = zip(*(_read_init(run, text) for text in request.inits), strict=True)
  squares = [
    images_lib.resize(image, run.card.image_size, run.card.resize) for image in shown
  ]
  slugs = (request_lib.slug({"reference": text}) for text in request.inits)
  names = request_lib.distinct([a or b for a, b in zip(ids, slugs, strict=True)])
  entries, masks, own = [], [], []
  for i, (text, image, name) in enumerate(
    zip(request.inits, shown, names, strict=True)
  ):
    entry = {"init": text, "init_file": f"inits/{name}.png"}
    if request.masks:
      path = request.masks[i % len(request.masks)]
      masks.append(_read_mask(run.card, path, image.shape, text))
      entry |= {"mask": str(path), "mask_file": f"masks/{name}.png"}
    # The records hold a condition of this very image.
    known = bool(ids[i]) and run.needs.reference == "self"
    if request.invert:
      entry["source"] = "its own condition" if known else "no condition"
    entries.append(entry)
    image_ids = (ids[i],) if known else ()
    own.append(request_lib.Request(image_ids=image_ids, unconditional=not known))
  return EditInputs(
    images=np.stack(squares)[..., None],
    masks=np.stack(masks)[..., None] if masks else None,
    entries=entries,
    names=names,
    ids=list(ids),
    own=own,
  )


def request_of(
  request: request_lib.Request, inits: EditInputs, takes: tuple[str, ...]
) -> request_lib.Request:
  """Returns the request, or one for the images' own conditions if it has none.

  Args:
    takes: the inputs that the run's path accepts, from `Needs.inputs`.

  Raises:
    errors.InputError: no condition is given, and no image is in the dataset.
  """
  if request.given:
    return request
  if all(inits.ids):
    return dataclasses.replace(request, image_ids=tuple(inits.ids))
  if "reference" in takes and not any(inits.ids):
    paths = tuple(entry["init"] for entry in inits.entries)
    return dataclasses.replace(request, references=paths)
  expected = ", ".join((*takes, "image_ids", "unconditional"))
  raise errors.InputError("init without a condition", expected)


def _read_init(run: Run, text: str) -> tuple[np.ndarray, str]:
  """Returns an image [h w] uint8, and its id if it is in the records."""
  if not pathlib.Path(text).exists():
    stem = csv_table.stem(text)
    if not run.has_image(stem):
      raise errors.InputError(
        f"init {text}", "a PNG, JPEG or DICOM file, or the id of an image of the run"
      )
    ((source, place),) = run.dataset.find([text])
    return source[place]["image"][..., 0], stem
  return reference.read_reference(text), ""


def _read_mask(
  card: DatasetCard, path: str, wanted: tuple[int, int], init: str
) -> np.ndarray:
  """Reads a mask of an image of size `wanted`, as [h w] bool of the run's size."""
  mask = reference.read_picture(path)
  if mask.shape != wanted:
    raise errors.InputError(
      f"mask {path} of {mask.shape[1]}x{mask.shape[0]} pixels",
      f"{wanted[1]}x{wanted[0]}, the size of init {init}",
      "draw it on the image itself",
    )
  generated = images_lib.resize(mask, card.image_size, card.resize) > 127
  if not generated.any():
    raise errors.InputError(
      f"mask {path}, which leaves nothing to make: black in all that the run sees",
      "white where the image is to be generated",
    )
  if generated.all():
    logging.warning("mask %s is white everywhere: nothing of %s stays", path, init)
  return generated
