"""How well images fit their own prompts, by a dual encoder of images and texts.

  s_ij = cos(image i, prompt j), i and j of different patients with different prompts
  alignment  mean s_ii       of other prompts  mean s_ij       retrieval  P(s_ii > s_ij)

CLIP (Radford et al., 2103.00020); the mean cosine is the CLIPScore of Hessel et al.,
2104.08718, unscaled. Cosines of one network say little alone: what counts is their
distance from those of other patients' prompts, and from those of real images.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import ranking

# Images and prompts that are compared, all with all.
MOST = 2048

METRICS = (
  Metric(
    name="text_alignment",
    subject="adherence",
    meaning="Mean cosine of an image and its own prompt, by a network of images and"
    " texts. Its level depends on the network: compare it with other prompts and with"
    " real images.",
    direction="higher",
    bounds=(-1.0, 1.0),
    minimum_n=20,
  ),
  Metric(
    name="text_alignment_prompts_of_others",
    subject="adherence",
    meaning="The same with the prompts of other patients: its chance level.",
    bounds=(-1.0, 1.0),
    minimum_n=20,
  ),
  Metric(
    name="text_retrieval_auroc",
    subject="adherence",
    meaning="Probability that an image is closer to its own prompt than to one of"
    " another patient; 0.5 is chance.",
    direction="higher",
    bounds=(0.0, 1.0),
    minimum_n=20,
  ),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AlignmentJudge:
  """Compares images with the prompts of their conditions.

  Attributes:
    extractor: gives the images' embeddings in the space shared with texts.
    encode_fn: n texts -> their embeddings [n p] in that space.
    prompts_fn: ids of conditions -> their texts.
  """

  extractor: Extractor
  encode_fn: Callable[[Sequence[str]], np.ndarray]
  prompts_fn: Callable[[Sequence[str]], list[str]]

  @property
  def title(self) -> str:
    """The judge in tables; it begins with the encoder's name, as `unranked` needs."""
    return f"{self.extractor.name}, images and prompts"

  def measure(
    self, images: ImageSet, of: str, features: Mapping[str, np.ndarray]
  ) -> list[Measurement]:
    """The figures of images whose ids are those of their conditions.

    Args:
      of: "generated" or "real".
      features: extractor -> [n p]; without those of `extractor` there is no figure.
    """
    if self.extractor.name not in features:
      return []
    rows = np.arange(len(images))
    if len(rows) > MOST:
      rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST])
    patients = images.patients[rows]
    fields = Fields(
      judge=self.title,
      standin=self.extractor.standin,
      of=of,
      num=len(rows),
      patients=len(np.unique(patients)) if images.num_patients else 0,
    )
    if len(rows) < METRICS[0].minimum_n:
      reason = f"{len(rows)} images, fewer than {METRICS[0].minimum_n}"
      return [one.measurement(fields, value=None, reason=reason) for one in METRICS]
    prompts = self.prompts_fn([str(images.ids[row]) for row in rows])
    figures = alignment(
      features[self.extractor.name][rows], self.encode_fn(prompts), prompts, patients
    )
    return [
      record.measurement(figure, fields)
      if np.isfinite(figure.value)
      else record.measurement(
        fields, value=None, reason="no two patients with different prompts"
      )
      for record, figure in zip(METRICS, figures, strict=True)
    ]


def alignment(
  images: np.ndarray,
  texts: np.ndarray,
  prompts: Sequence[str],
  patients: np.ndarray,
) -> list[statistics.Estimate]:
  """The figures of `METRICS`, in their order.

  Args:
    images: embeddings [n p].
    texts: embeddings [n p] of the images' own prompts.
    prompts: the n texts; equal ones are never compared with each other.
    patients: names [n].
  """
  similarity = _unit(images) @ _unit(texts).T
  own = np.diagonal(similarity).astype(np.float64)
  places = np.unique(prompts, return_inverse=True)[1]
  other = (places[:, None] != places) & (patients[:, None] != patients)
  others = other.astype(np.float32)
  above = own[:, None].astype(np.float32)
  won = (above > similarity) + 0.5 * (above == similarity).astype(np.float32)

  def mean_of_pairs(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    # A pair counts as often as both of its patients do.
    chosen = (values * others).astype(np.float32)

    def mean(weights: np.ndarray) -> np.ndarray:
      weights = weights.astype(np.float32)
      part = ((weights @ chosen) * weights).sum(axis=1, dtype=np.float64)
      whole = ((weights @ others) * weights).sum(axis=1, dtype=np.float64)
      return ranking.ratio(part, whole)

    return mean

  figures = (statistics.mean_fn(own), mean_of_pairs(similarity), mean_of_pairs(won))
  return [statistics.estimate(figure_fn, patients) for figure_fn in figures]


def _unit(vectors: np.ndarray) -> np.ndarray:
  """Scales rows [n p] to length 1, in float32."""
  vectors = np.asarray(vectors, np.float32)
  return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9)
