"""Compares requested with generated anatomy, if the requested one is known.

phantom tree -> true measures of the images that conditions came from: requested [n]
generated images -> anatomy regressor -> measured [n]
  error        mean of |measured - requested|, in the quantity's own unit
  correlation  Pearson's, of measured and requested
  bias         mean of measured - requested

Each figure has two references: the same of the conditions' own real images, which is
the regressor's error and so the ceiling; and the error against other conditions, which
images reach that ignore theirs (their correlation is 0).

Of real images, whose true measures are not known, a user's segmenter measures both the
generated image and the real one: the figures are of their difference.

What may be expected depends on the path. A condition that comes from the image itself
(CLIP vision, ELIXR-C) can hold the ratio. Words or findings say whether the heart is
enlarged and little more (by age and view): all images together correlate, those of one
group of `GROUPS` hardly do.
"""

from collections.abc import Callable, Mapping, Sequence
import os

import numpy as np

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.sources import phantom
from cxr_diffusion_jax.data.sources.nih import layout
from cxr_diffusion_jax.encoders.extractors import segmenter
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.encoders.probes.anatomy_regressor import AnatomyRegressor
from cxr_diffusion_jax.evaluation import statistics
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement
from cxr_diffusion_jax.evaluation.metric import Metric, title_of

# Heart over thorax; shares of the image that are aerated lung; heights of the domes'
# tops from the image's upper edge, as fractions of its side.
QUANTITIES = (
  "cardiothoracic_ratio",
  "lung_area_right",
  "lung_area_left",
  "diaphragm_right",
  "diaphragm_left",
)

# With fewer images, a correlation is not meaningful.
MIN_IMAGES = 20

# Figure -> better direction, meaning.
_CHANCE = "error_conditions_of_others"
_FIGURES = {
  "error": ("lower", "Mean absolute difference of measured and requested quantity."),
  "correlation": ("higher", "Of the measured with the requested quantity."),
  "bias": ("", "Mean of the measured less the requested quantity."),
  _CHANCE: ("", "The same error if conditions were exchanged: chance level."),
}

METRICS = tuple(
  Metric(
    name=f"{quantity}_{figure}",
    subject="adherence",
    title=title_of(f"{quantity}_{figure}").replace(" conditions", ", conditions"),
    meaning=meaning,
    direction=direction,
    bounds=(-1.0, 1.0) if figure in ("correlation", "bias") else (0.0, 1.0),
    minimum_n=MIN_IMAGES,
  )
  for quantity in QUANTITIES
  for figure, (direction, meaning) in _FIGURES.items()
)

# Groups that show what a path knows beyond the findings.
GROUPS = ("finding: Cardiomegaly", "finding: No Finding")

NO_FACTS = "true measures are known of phantoms alone"
NO_SEGMENTER = "no segmenter of heart and lungs is given"


def facts_of(
  root: str | os.PathLike, ids: Sequence[str]
) -> dict[str, np.ndarray] | None:
  """True measures of n images of a phantom tree, read from the PNGs.

  Returns:
    Those of `QUANTITIES` that all images state -> [n] float64; None for real trees.
  """
  if not phantom.is_phantom_tree(root):
    return None
  paths = layout.find_tree(root).originals
  facts = [phantom.read_facts(paths[str(name)]) for name in ids]
  if not all(facts):
    return None
  measures = [_quantities(one) for one in facts]
  return {
    name: np.array([of_image[name] for of_image in measures], np.float64)
    for name in QUANTITIES
    if all(name in of_image for of_image in measures)
  }


def measure(
  generated: ImageSet,
  conditions: ImageSet,
  facts: Mapping[str, np.ndarray] | None,
  regressor: AnatomyRegressor | None,
) -> list[Measurement]:
  """Compares what images measure with what was requested.

  Args:
    conditions: those n real images, with the labels `findings`, and `patient` where
      known.

  Returns:
    `METRICS` of the known quantities, of both kinds of images, for all of them and for
    `GROUPS`; undefined for too few images or without facts.
  """
  if facts is None or regressor is None:
    return [METRICS[0].measurement(value=None, reason=NO_FACTS, num=len(generated))]
  measurements: list[Measurement] = []
  for of, images in (("generated", generated.images), ("real", conditions.images)):
    fields = Fields(
      judge=f"anatomy regressor, trained on {regressor.num_training:,} phantoms",
      standin=True,
      of=of,
    )
    measurements += _table(regressor.quantities(images), facts, conditions, fields)
  return measurements


def measure_segmented(
  generated: ImageSet,
  conditions: ImageSet,
  requested: Mapping[str, np.ndarray],
  network: Extractor,
) -> list[Measurement]:
  """Compares what a user's segmenter measures in generated and in real images.

  `requested` is `segmenter.measure` of the conditions' real images. Images count where
  the organs are seen in both.
  """
  measured = segmenter.measure(network, generated.images)
  return _table(measured, requested, conditions, Fields(judge=network.name))


def _table(
  measured: Mapping[str, np.ndarray],
  requested: Mapping[str, np.ndarray],
  conditions: ImageSet,
  fields: Fields,
) -> list[Measurement]:
  """`METRICS` of quantities that both know, of all images and of `GROUPS`."""
  patients, parts = conditions.patients, image_set.groups(conditions)
  groups = {"all": np.ones(len(conditions), bool)}
  groups |= {name: parts[name] for name in GROUPS if name in parts}
  records = {record.name: record for record in METRICS}
  measurements: list[Measurement] = []
  for name in (one for one in QUANTITIES if one in measured and one in requested):
    pair = measured[name], np.asarray(requested[name])
    known = np.isfinite(pair[0]) & np.isfinite(pair[1])
    for group, of_group in groups.items():
      rows = of_group & known
      estimates = _compare(pair[0][rows], pair[1][rows], patients[rows])
      measurements += [
        records[f"{name}_{figure}"].measurement(
          fields,
          values,
          group=group,
          num=int(rows.sum()),
          patients=conditions.num_patients and len(np.unique(patients[rows])),
        )
        for figure, values in estimates.items()
      ]
  return measurements


def figures(
  measured: np.ndarray, requested: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
  """Error, correlation and bias of images that count `weights` times.

  Returns:
    Name -> [r]; the correlation is 0 where either does not vary.
  """
  share = weights / weights.sum(axis=1, keepdims=True)

  def centred(values: np.ndarray) -> np.ndarray:
    return values - (share @ values)[:, None]

  x, y = centred(measured), centred(requested)
  spread = np.sqrt((share * x * x).sum(axis=1) * (share * y * y).sum(axis=1))
  together = (share * x * y).sum(axis=1)
  varies = spread > 1e-12 * (1e-12 + np.abs(requested).max())
  return {
    "error": share @ np.abs(measured - requested),
    "correlation": np.where(varies, together / np.where(varies, spread, 1), 0),
    "bias": share @ (measured - requested),
  }


def error_of_others(measured: np.ndarray, requested: np.ndarray) -> np.ndarray:
  """[n], the mean of |measured_i - requested_j| over all j but i."""
  order = np.sort(requested)
  totals = np.concatenate([[0.0], np.cumsum(order)])
  n, below = len(requested), np.searchsorted(order, measured)
  # Of sorted values: those below add x - a, those above a - x.
  under = below * measured - totals[below]
  over = totals[-1] - totals[below] - (n - below) * measured
  return (under + over - np.abs(measured - requested)) / (n - 1)


def _compare(
  measured: np.ndarray, requested: np.ndarray, patients: np.ndarray
) -> dict[str, Fields | statistics.Estimate]:
  """The figures of one quantity and group."""
  if len(requested) < MIN_IMAGES:
    reason = f"{len(requested)} images, expected at least {MIN_IMAGES}"
    return {one: Fields(value=None, reason=reason) for one in _FIGURES}
  chance = statistics.mean_fn(error_of_others(measured, requested))
  figure_fns: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    one: lambda weights, one=one: figures(measured, requested, weights)[one]
    for one in ("error", "correlation", "bias")
  }
  return {
    name: statistics.estimate(figure_fn, patients)
    for name, figure_fn in (figure_fns | {_CHANCE: chance}).items()
  }


def _quantities(facts: artifacts.JsonMapping) -> dict[str, float]:
  """The quantities that one image states."""
  quantities = {"cardiothoracic_ratio": facts["cardiothoracic_ratio"]}
  for name in ("lung_area", "diaphragm"):
    if name in facts:
      sides = (f"{name}_right", f"{name}_left")
      quantities |= dict(zip(sides, facts[name], strict=True))
  return quantities
