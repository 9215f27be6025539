"""How well images show the requested findings, by ELIXR and two sentences a finding.

  margin(image, finding) = max over i of cos(image_i, "large pleural effusion")
                         - max over i of cos(image_i, "no pleural effusion")
  i: the 32 outputs of the Q-Former for the image, in the space shared with texts

images --encoder--> [n 32 128] --PROMPTS--> margins [n 14]
  -> AUROC, average precision, found, false alarms at 0, mean margins with and without

Zero-shot classification by two prompts: Xu et al., ELIXR, 2308.01317. Nothing is
trained here: the judge has never seen the findings' labels. The stand-in's training
prompts negate all findings at once only, so its second sentence is that of no finding.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import pathlib
from types import MappingProxyType

import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric

JUDGE = "ELIXR zero-shot, best of 32 outputs"

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

_MEANING = "Similarity to the finding's text less similarity to that of its absence, in"
METRICS = tuple(
  Metric(
    name=name,
    subject="adherence",
    meaning=f"{_MEANING} {images}.",
    bounds=(-2.0, 2.0),
    minimum_n=5,
  )
  for name, images in (
    ("margin_with", "images that were to show it"),
    ("margin_without", "images that were not"),
  )
)

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
    known = hashlib.sha256(self.encoder.description.encode())
    for texts in (self.positive, self.negative):
      known.update(np.ascontiguousarray(texts).tobytes())
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

      path = cache / f"zero_shot-{digest.hexdigest()[:24]}.npy" if cache else None
      scores.append(artifacts.load_or_make(path, encoded))
      progress("zero-shot margins", rows.stop, len(images))
    return np.concatenate(scores)


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


def measure(
  scorer: Scorer,
  images: ImageSet,
  *,
  of: str = "generated",
  cache: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Encodes images with the label `findings`, and judges them.

  Raises:
    errors.InputError: no finding with enough images.
  """
  requested = np.asarray(images.labels["findings"]) > 0.5
  # Encoding is slow: refuse what can be refused first.
  adherence.check(np.zeros(requested.shape), requested, np.zeros(requested.shape[1]))
  scores = scorer.margins(images.images, cache=cache, progress=progress)
  fields = Fields(judge=JUDGE, of=of, patients=images.num_patients)
  return _measure_margins(scorer, scores, requested, images.patients, fields)


def measure_column(
  scorer: Scorer,
  column: columns_lib.Column,
  split: str,
  findings: np.ndarray,
  patients: np.ndarray,
) -> list[Measurement]:
  """Judges the stored embeddings of real images, without encoding them again.

  They are of the original images, not of the records' squares.

  Args:
    findings: [n k], the split's labels; rows without a value are left out.
    patients: [n] of the split.

  Raises:
    errors.InputError: another encoder's column, or no finding with enough images.
  """
  encoder = column.description.encoder
  nameless = encoder_lib.NAMELESS in encoder and not scorer.encoder.standin
  if not nameless and not encoder.startswith(scorer.encoder.description):
    raise errors.InputError(
      f"the column {column.description.name} of {encoder}",
      f"one of {scorer.encoder.description}, which encodes the prompts",
    )
  rows = np.flatnonzero(column.present(split))
  source = column.source(split)
  scores = [np.zeros((0, len(scorer.names)), np.float32)]
  for first in range(0, len(rows), BLOCK):
    block = np.stack([source[int(row)] for row in rows[first : first + BLOCK]])
    scores.append(margins(block, scorer.positive, scorer.negative))
  scores, requested = np.concatenate(scores), np.asarray(findings)[rows] > 0.5
  patients = np.asarray(patients)[rows]
  num_patients = len(np.unique(patients))
  fields = Fields(judge=f"{JUDGE}, stored", of="real", patients=num_patients)
  return _measure_margins(scorer, scores, requested, patients, fields)


def _measure_margins(
  scorer: Scorer,
  scores: np.ndarray,
  requested: np.ndarray,
  patients: np.ndarray,
  fields: Fields,
) -> list[Measurement]:
  """Figures of adherence and mean margins [n k]; above 0 a finding counts as seen."""
  names, zeros = scorer.names, np.zeros(len(scorer.names))
  figures = adherence.measure(scores, requested, zeros, patients=patients)
  common = fields | Fields(standin=scorer.encoder.standin)
  table = adherence.to_measurements(figures, names, **common)
  least, counted = adherence.MIN_POSITIVES, figures.counted
  few = f"fewer than {least} of {len(scores)} images have it, or all have"
  groups = ["all", *(f"finding: {name}" for name in names)]
  for record, chosen in zip(METRICS, (requested, ~requested), strict=True):
    means = iter(
      statistics.means_of_chosen(scores[:, counted], chosen[:, counted], patients)
    )
    for group, known in zip(groups, [True, *counted], strict=True):
      figure = next(means) if known else Fields(value=None, reason=few)
      table.append(record.measurement(common, figure, group=group, num=len(scores)))
  return table
