"""Images and masks to edit.

x.png or an image's id --read--> square [h w] uint8;  m.png --> [h w] bool, white True
"""

from collections.abc import Sequence
import dataclasses
import pathlib

from absl import logging
import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data import images as images_lib
from cxr_diffusion_jax.data import reference
from cxr_diffusion_jax.run.card import DatasetCard
from cxr_diffusion_jax.run.run import Run
from cxr_diffusion_jax.sampling import image_to_image
from cxr_diffusion_jax.sampling import request as request_lib

# The value published for SDEdit, which preserves much of the image.
STRENGTH = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditRequest:
  """A request to edit images.

  Attributes:
    inits: X-ray files, or ids of the dataset's images.
    masks: files, one for all images or one each: white is generated, black is kept.
    strength: see `image_to_image.Plan`; None for 1 with a mask or an inversion, else
      `STRENGTH`.
    invert: compute each image's own noise first, and denoise from there.
    repeats: evaluations for each step of the inversion.

  Raises:
    errors.InputError: a wrong number of masks, or see `image_to_image.Plan`.
  """

  inits: tuple[str, ...]
  masks: tuple[str, ...] = ()
  strength: float | None = None
  invert: bool = False
  repeats: int = 1

  def __post_init__(self):
    if not self.inits:
      raise errors.InputError("no image", "a file, or the id of an image")
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
    whole = bool(self.masks) or self.invert
    strength = (1.0 if whole else STRENGTH) if self.strength is None else self.strength
    return image_to_image.Plan(
      strength=strength,
      masked=bool(self.masks),
      inverted=self.invert,
      repeats=self.repeats,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditInputs:
  """The k input images; row i of every field belongs to image i.

  Attributes:
    images: uint8 [k h w 1], of the run's size.
    masks: bool [k h w 1], True where pixels are generated; None for none.
    entries: descriptions for samples.json.
    names: safe for use in file names.
    ids: ids of the dataset's images; "" for files.
  """

  images: np.ndarray
  masks: np.ndarray | None
  entries: Sequence[artifacts.JsonMapping]
  names: Sequence[str]
  ids: Sequence[str]

  def __len__(self) -> int:
    return len(self.names)


def read(run: Run, request: EditRequest) -> EditInputs:
  """Reads images and masks as squares of the run's size.

  Raises:
    errors.InputError: neither a file nor an id; a mask that differs in size from its
      image or is black everywhere.
  """
  shown, ids = [], []
  for text in request.inits:
    image, image_id = _read_init(run, text)
    shown.append(image)
    ids.append(image_id)
  squares = [
    images_lib.resize(image, run.card.image_size, run.card.resize) for image in shown
  ]
  masks = None
  if request.masks:
    paths = request.masks * (len(shown) if len(request.masks) == 1 else 1)
    masks = np.stack(
      [
        _read_mask(run.card, path, image.shape, text)
        for path, image, text in zip(paths, shown, request.inits, strict=True)
      ]
    )[..., None]
  names = [
    image_id or request_lib.slug({"reference": text})
    for image_id, text in zip(ids, request.inits, strict=True)
  ]
  entries = [{"init": text} for text in request.inits]
  if request.masks:
    entries = [
      {**entry, "mask": str(path)} for entry, path in zip(entries, paths, strict=True)
    ]
  return EditInputs(
    images=np.stack(squares)[..., None],
    masks=masks,
    entries=entries,
    names=request_lib.distinct(names),
    ids=ids,
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
  raise errors.InputError(
    "init without a condition",
    ", ".join((*takes, "image_ids", "unconditional")),
  )


def _read_init(run: Run, text: str) -> tuple[np.ndarray, str]:
  """Returns an image [h w] uint8, and its id if it is in the records."""
  if not pathlib.Path(text).exists():
    stem = pathlib.PurePath(text).stem
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
