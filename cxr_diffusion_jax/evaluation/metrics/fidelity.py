"""How close generated images are to real ones, by features of a frozen network.

features of both sets --METRICS--> value, deviations -> interval -> [Measurement, ...]

Every figure depends on the number of images and on the network, so a measurement states
both. A figure is compared with its floor or ceiling: the same of as many real images.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math

import numpy as np

from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.evaluation.metrics import (
  frechet,
  kernels,
  neighbourhoods,
  neighbours,
)
from cxr_diffusion_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeaturePair:
  """Features of two sets of images, and what several figures share."""

  real: np.ndarray  # [m d]
  generated: np.ndarray  # [n d]
  patients: tuple[np.ndarray, np.ndarray]  # names [m] of the real images, and [n]
  seed: int = 0

  @property
  def num(self) -> int:
    """Images of the smaller set."""
    return min(len(self.real), len(self.generated))

  @functools.cached_property
  def real_balls(self) -> neighbourhoods.Balls:
    """Neighbourhoods of the real images, with the generated ones as points."""
    return neighbourhoods.Balls.of(self.real, self.generated)

  def near_real(self, figure: str, k: int) -> statistics.Estimate:
    """A figure of the real images' neighbourhoods."""
    return self.real_balls.estimate(figure, k, *self.patients)

  def recall(self) -> statistics.Estimate:
    """Recall: precision with the sets exchanged."""
    balls = neighbourhoods.Balls.of(self.generated, self.real)
    return balls.estimate("precision", neighbourhoods.PRECISION_K, *self.patients[::-1])


_distance = functools.partial(Metric, subject="fidelity", direction="lower")
_share = functools.partial(
  Metric, subject="fidelity", direction="higher", bounds=(0.0, 1.0), minimum_n=20
)

# Below `minimum_n` intervals are as wide as the figures. A Frechet distance needs more:
# it fits a covariance.
METRICS = (
  _distance(
    name="frechet_distance",
    title="Fréchet distance",
    meaning="Distance of two Gaussians that were fitted to the features of generated"
    " and of real images. It falls with the number of images, so compare it with the"
    " floor, which is of as many real images.",
    bounds=(0.0, math.inf),
    minimum_n=50,
    fn=lambda pair: frechet.with_influences(pair.real, pair.generated),
  ),
  _distance(
    name="kernel_distance",
    title="Kernel distance (KID)",
    meaning="Squared maximum mean discrepancy of features with a cubic kernel, averaged"
    " over subsets. It is unbiased, so 0 is reached and passed by chance.",
    minimum_n=20,
    fn=lambda pair: kernels.kernel_distance_with_influences(
      pair.real, pair.generated, seed=pair.seed
    ),
  ),
  _distance(
    name="cmmd",
    title="CMMD",
    meaning="Maximum mean discrepancy of features with a Gaussian kernel.",
    bounds=(0.0, math.inf),
    minimum_n=20,
    fn=lambda pair: kernels.cmmd_with_influences(pair.real, pair.generated),
  ),
  _share(
    name="precision",
    meaning="Share of generated images that lie within the neighbourhood of a real"
    " image.",
    fn=lambda pair: pair.near_real("precision", neighbourhoods.PRECISION_K),
  ),
  _share(
    name="recall",
    meaning="Share of real images that lie within the neighbourhood of a generated"
    " image.",
    fn=FeaturePair.recall,
  ),
  _share(
    name="density",
    meaning="How many real neighbourhoods a generated image lies in, divided by how"
    " many it should; may exceed 1.",
    bounds=(0.0, math.inf),
    fn=lambda pair: pair.near_real("density", neighbourhoods.DENSITY_K),
  ),
  _share(
    name="coverage",
    meaning="Share of real images whose neighbourhood holds a generated image.",
    fn=lambda pair: pair.near_real("coverage", neighbourhoods.DENSITY_K),
  ),
)

# Rows of real and of generated images, each bool.
Masks = tuple[np.ndarray, np.ndarray]


def measure(
  real: Array,
  generated: Array,
  *,
  extractor: Extractor,
  groups: Mapping[str, Masks] | None = None,
  metrics: Sequence[Metric] = METRICS,
  real_patients: np.ndarray | None = None,
  patients: np.ndarray | None = None,
  seed: int = 0,
) -> list[Measurement]:
  """All figures of all images and of each group.

  2,000 against 2,000 images of 768 features with 20 groups of a quarter of them take 7
  s of one core: kernels and distances grow with n^2 d, the Frechet distance with d^3
  or, for fewer images than features, n^2 d.

  Args:
    real: [m d] features.
    generated: [n d].
    groups: name -> rows, with names of `image_set.groups`.
    real_patients: names [m]; None if unknown: each image counts as a patient.
    patients: names [n] of the generated images' conditions, in the same way.

  Returns:
    For "all" and for each group, a measurement of each metric; undefined for too few
    images.

  Raises:
    errors.InputError: features that are not finite, or of different widths.
  """
  real, generated = neighbours.pair(real, generated)
  judged = judged_by(extractor)
  everything = np.ones(len(real), bool), np.ones(len(generated), bool)
  measurements = []
  for group, (of_real, of_generated) in {"all": everything, **(groups or {})}.items():
    real_names, real_count = _patients(real_patients, of_real, "real image")
    names, count = _patients(patients, of_generated, "image")
    pair = FeaturePair(
      real=real[of_real],
      generated=generated[of_generated],
      patients=(real_names, names),
      seed=seed,
    )
    fields = Fields(
      num=len(pair.generated),
      num_real=len(pair.real),
      patients=count,
      real_patients=real_count,
      group=group,
    )
    measurements += [
      record.measurement(fields, judged, _figure(record, pair))
      for record in metrics
      if record.fn
    ]
  return measurements


def _patients(
  names: np.ndarray | None, rows: np.ndarray, word: str
) -> tuple[np.ndarray, int]:
  """Names of the patients of some rows, and how many are known."""
  if names is None:
    return np.array([f"{word} {row}" for row in np.flatnonzero(rows)]), 0
  return names[rows], len(np.unique(names[rows]))


def judged_by(extractor: Extractor) -> Fields:
  """The fields of a measurement that name the network of the features."""
  return Fields(judge=f"{extractor.name}, {extractor.layer}", standin=extractor.standin)


def _figure(record: Metric, pair: FeaturePair) -> Fields | statistics.Estimate:
  """Value and interval, or the reason why there is none."""
  if pair.num < record.minimum_n:
    kind = "images" if len(pair.generated) <= len(pair.real) else "real images"
    reason = f"{pair.num} {kind}, expected at least {record.minimum_n}"
    return Fields(value=None, reason=reason)
  figure = record.fn(pair) if record.fn else math.nan
  if isinstance(figure, statistics.Influences):
    sides = zip((figure.of_real, figure.of_generated), pair.patients, strict=True)
    return statistics.linear(figure.value, *sides)
  if isinstance(figure, statistics.Estimate):
    return figure
  return Fields(value=float(figure))
