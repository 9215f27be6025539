"""Margins of findings in images, by ELIXR and two sentences a finding.

  margin(image, finding) = max over i of cos(image_i, "large pleural effusion")
                         - max over i of cos(image_i, "no pleural effusion")
  i: the 32 outputs of the Q-Former for the image, in the space shared with texts

Zero-shot classification by two prompts: Xu et al., ELIXR, 2308.01317. The stand-in's
training prompts negate all findings at once only, so its second sentence is that of no
finding.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import pathlib
from types import MappingProxyType

import numpy as np

from cxr_diffusion_jax import checked_files, types
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr

# Finding -> a sentence with it and a sentence without it, short as in a report: in the
# manner of Xu et al., ELIXR, 2308.01317.
PROMPTS: Mapping[str, tuple[str, str]] = MappingProxyType({
  "Atelectasis": ("atelectasis", "no atelectasis"),
  "Cardiomegaly": ("enlarged heart, cardiomegaly", "normal heart size"),
  "Consolidation": ("consolidation", "no consolidation"),
  "Edema": ("pulmonary edema", "no pulmonary edema"),
  "Effusion": ("large pleural effusion", "no pleural effusion"),
  "Emphysema": ("emphysema", "no emphysema"),
  "Fibrosis": ("pulmonary fibrosis", "no pulmonary fibrosis"),
  "Hernia": ("hiatal hernia", "no hiatal hernia"),
  "Infiltration": ("lung infiltrate", "no lung infiltrate"),
  "Mass": ("lung mass", "no lung mass"),
  "Nodule": ("lung nodule", "no lung nodule"),
  "Pleural_Thickening": ("pleural thickening", "no pleural thickening"),
  "Pneumonia": ("pneumonia", "no pneumonia"),
  "Pneumothorax": ("small pneumothorax", "no pneumothorax"),
})  # fmt: skip

IMAGES, TEXT = "all_contrastive_img_emb", "contrastive_txt_emb"

# Images that are encoded at a time, and kept as one file.
BLOCK = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
  """Gives images their margins."""

  encoder: encoder_lib.Encoder
  names: tuple[str, ...]
  positive: np.ndarray  # [k d], of the sentences with the finding
  negative: np.ndarray  # [k d], of those without

  @property
  def fingerprint(self) -> str:
    """Identifies the encoder and the sentences."""
    return self._digest().hexdigest()[:16]

  def margins(
    self,
    images: types.Arrays,
    *,
    cache: pathlib.Path | None = None,
    progress: types.Progress = types.no_progress,
  ) -> np.ndarray:
    """Margins [n k] float32 in [-2, 2] of images, higher where the finding is seen.

    Args:
      cache: keeps the margins of every block of images, named by its pixels, so that an
        interrupted call resumes; None for none.
    """
    known = self._digest()
    scores = [np.zeros((0, len(self.names)), np.float32)]
    for first in range(0, len(images), BLOCK):
      rows = range(first, min(first + BLOCK, len(images)))
      block = [np.asarray(images[row])[..., 0] for row in rows]
      digest = known.copy()
      for image in block:
        digest.update(f"{image.shape} {image.dtype}".encode() + image.tobytes())

      def encoded(block=block) -> np.ndarray:
        outputs = self.encoder.encode_images([IMAGES], block)[IMAGES]
        return margins(outputs, self.positive, self.negative)

      path = cache / f"zero_shot-{digest.hexdigest()[:24]}.npz" if cache else None
      scores.append(checked_files.load_or_make(path, encoded))
      progress("zero-shot margins", rows.stop, len(images))
    return np.concatenate(scores)

  def _digest(self):
    digest = hashlib.sha256(self.encoder.description.encode())
    for texts in (self.positive, self.negative):
      digest.update(np.ascontiguousarray(texts).tobytes())
    return digest


def margins(
  outputs: np.ndarray, positive: np.ndarray, negative: np.ndarray
) -> np.ndarray:
  """The difference of two best cosines: [n k] float32 in [-2, 2].

  Args:
    outputs: [n r d] of images, of any length but 0.
    positive: [k d] of texts that say that something is there.
    negative: [k d] of texts that say that it is not.
  """

  def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

  outputs = unit(outputs)
  seen, missed = (
    np.einsum("nrd,kd->nrk", outputs, unit(texts)).max(axis=1)
    for texts in (positive, negative)
  )
  return seen - missed


def open_scorer(settings: DataSettings, elixr_models: str = "") -> Scorer | str:
  """Opens ELIXR's SavedModels, else the stand-in of these records; or says why not."""
  encoder: encoder_lib.Encoder
  prompts = PROMPTS
  if elixr_models:
    elixr = elixr_model.load(elixr_models)
    for model in (elixr_saved_model.IMAGE_MODEL, elixr_saved_model.TEXT_MODEL):
      elixr_saved_model.find(elixr.folder, model)
    encoder = elixr
  elif settings.standin_clip.is_dir():
    encoder = standin_elixr.load(settings.standin_clip)
    prompts = {name: (with_it, "no finding") for name, (with_it, _) in prompts.items()}
  else:
    return f"ELIXR's SavedModels were not named, no stand-in in {settings.standin_clip}"
  return make_scorer(encoder, prompts)


def make_scorer(
  encoder: encoder_lib.Encoder, prompts: Mapping[str, tuple[str, str]]
) -> Scorer:
  """Encodes the prompts of every finding."""
  texts = [text for pair in prompts.values() for text in pair]
  vectors = np.asarray(encoder.encode_text([TEXT], texts)[TEXT], np.float32)
  return Scorer(
    encoder=encoder, names=tuple(prompts), positive=vectors[::2], negative=vectors[1::2]
  )
