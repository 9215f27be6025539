"""How well images show the requested findings, by ELIXR and two sentences a finding.

  margin(image, finding) = max over i of cos(image_i, "large pleural effusion")
                         - max over i of cos(image_i, "no pleural effusion")
  i: the 32 outputs of the Q-Former for the image, in the space shared with texts

images --encoder--> [n 32 128] --PROMPTS--> margins [n 14] -> AUROC, mean margins

Zero-shot classification by two prompts: Xu et al., ELIXR, 2308.01317. Nothing is
trained here: the judge has never seen the findings' labels. The stand-in's training
prompts negate all findings at once only, so its second sentence is that of no finding.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import pathlib

import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.judges import margins as margins_lib
from cxr_diffusion_jax.evaluation.judges.margins import JUDGE, PROMPTS
from cxr_diffusion_jax.evaluation.measurement import Measurement

IMAGES, TEXT = "all_contrastive_img_emb", "contrastive_txt_emb"

# Images that are encoded at a time, and kept as one file.
BLOCK = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
  """Gives images their margins.

  Attributes:
    encoder: of images and of the prompts.
    names: k findings.
    positive: [k 128] float32, of the sentences with the finding.
    negative: [k 128] float32, of those without.
  """

  encoder: encoder_lib.Encoder
  names: tuple[str, ...]
  positive: np.ndarray
  negative: np.ndarray

  @property
  def standin(self) -> bool:
    return self.encoder.standin

  def margins(
    self,
    images: types.Arrays,
    *,
    cache: pathlib.Path | None = None,
    progress: types.Progress = types.no_progress,
  ) -> np.ndarray:
    """Scores images.

    Args:
      images: n of uint8 [h w 1].
      cache: keeps the margins of every block of images, named by its pixels, so that an
        interrupted call resumes; None for none.
      progress: called with the number of images done.

    Returns:
      [n k] float32 in [-2, 2], higher where the finding is seen.
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
      path = cache / f"zero_shot-{digest.hexdigest()[:24]}.npy" if cache else None
      scores.append(
        artifacts.load_or_make(path, lambda block=block: self._encoded(block))
      )
      progress("zero-shot margins", rows.stop, len(images))
    return np.concatenate(scores)

  def _encoded(self, block: list[np.ndarray]) -> np.ndarray:
    outputs = self.encoder.encode_images([IMAGES], block)[IMAGES]
    return margins(outputs, self.positive, self.negative)


def margins(
  outputs: np.ndarray, positive: np.ndarray, negative: np.ndarray
) -> np.ndarray:
  """The difference of two best cosines.

  Args:
    outputs: [n r d] of images, of any length but 0.
    positive: [k d] of texts that say that something is there.
    negative: [k d] of texts that say that it is not.

  Returns:
    [n k] float32 in [-2, 2].
  """
  outputs = _unit(outputs)
  best = [
    np.einsum("nrd,kd->nrk", outputs, _unit(texts)).max(axis=1)
    for texts in (positive, negative)
  ]
  return best[0] - best[1]


def open_scorer(
  settings: DataSettings,
  *,
  elixr_models: str = "",
  prompts: Mapping[str, tuple[str, str]] = PROMPTS,
) -> Scorer | str:
  """Opens the SavedModels, else the stand-in of these records.

  Args:
    settings: of the data, where a stand-in may be stored.
    elixr_models: folder or hub id of ELIXR's two SavedModels; "" for the stand-in.
    prompts: finding -> a sentence with it and a sentence without it.

  Returns:
    The scorer, or the reason why there is none.

  Raises:
    errors.InputError: the named models are absent or unusable.
  """
  encoder: encoder_lib.Encoder
  if elixr_models:
    elixr = elixr_model.load(elixr_models)
    for model in (elixr_saved_model.IMAGE_MODEL, elixr_saved_model.TEXT_MODEL):
      elixr_saved_model.find(elixr.folder, model)
    encoder = elixr
  elif settings.standin_clip.is_dir():
    model = clip_model.load(settings.standin_clip)
    standin_elixr.check_fits(model)
    encoder = standin_elixr.StandinEncoder(model=model)
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
    encoder=encoder,
    names=tuple(prompts),
    positive=vectors[::2],
    negative=vectors[1::2],
  )


def measure(
  scorer: Scorer,
  images: ImageSet,
  *,
  of: str = "generated",
  min_positives: int = 5,
  num_replicates: int = 1000,
  seed: int = 0,
  cache: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Encodes images and judges them.

  Args:
    scorer: the judge.
    images: with the findings that were requested or, of real images, are labelled.
    of: see `margins.measure`, as for the next three.
    min_positives: of a finding.
    num_replicates: of the bootstrap.
    seed: of the bootstrap.
    cache: see `Scorer.margins`.
    progress: called with the number of images done.

  Raises:
    errors.InputError: images without findings, or no finding with enough images.
  """
  if "findings" not in images.labels:
    raise errors.InputError(
      f"images {images.name!r} without findings",
      "findings that each was to show",
      "give the file of their labels",
    )
  asked = np.asarray(images.labels["findings"]) > 0.5
  # Encoding is slow: refuse what can be refused first.
  adherence.measure(
    np.zeros(asked.shape),
    asked,
    np.zeros(asked.shape[1]),
    min_positives,
    num_replicates=1,
  )
  return margins_lib.measure(
    scorer.margins(images.images, cache=cache, progress=progress),
    asked,
    scorer.names,
    standin=scorer.standin,
    of=of,
    min_positives=min_positives,
    num_replicates=num_replicates,
    seed=seed,
  )


def measure_column(
  scorer: Scorer,
  column: columns_lib.Column,
  split: str,
  findings: np.ndarray,
  *,
  min_positives: int = 5,
  num_replicates: int = 1000,
  seed: int = 0,
) -> list[Measurement]:
  """Judges the stored embeddings of real images, without encoding them again.

  They are of the original images, not of the records' squares.

  Args:
    scorer: with the encoder that wrote the column.
    column: of `IMAGES`.
    split: of the column.
    findings: [n k], the split's labels; rows without a value are left out.
    min_positives: see `margins.measure`, as for the next two.
    num_replicates: of the bootstrap.
    seed: of the bootstrap.

  Raises:
    errors.InputError: another encoder's column, or no finding with enough images.
  """
  encoder = column.description.encoder
  nameless = encoder_lib.NAMELESS in encoder and not scorer.standin
  if not nameless and not encoder.startswith(scorer.encoder.description):
    raise errors.InputError(
      f"the column {column.description.name} of {encoder}",
      f"one of {scorer.encoder.description}, which encodes the prompts",
    )
  rows = np.flatnonzero(column.present(split))
  scores = [
    margins(block, scorer.positive, scorer.negative)
    for block in _blocks(column.source(split), rows)
  ]
  return margins_lib.measure(
    np.concatenate([np.zeros((0, len(scorer.names)), np.float32), *scores]),
    np.asarray(findings)[rows] > 0.5,
    scorer.names,
    judge=f"{JUDGE}, stored",
    standin=scorer.standin,
    of="real",
    min_positives=min_positives,
    num_replicates=num_replicates,
    seed=seed,
  )


def _blocks(values: types.Arrays, rows: np.ndarray) -> Iterator[np.ndarray]:
  for first in range(0, len(rows), BLOCK):
    yield np.stack([values[int(row)] for row in rows[first : first + BLOCK]])


def _unit(vectors: np.ndarray) -> np.ndarray:
  vectors = np.asarray(vectors, np.float32)
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
