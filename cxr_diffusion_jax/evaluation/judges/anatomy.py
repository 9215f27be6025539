"""Anatomy that was asked for against anatomy that was generated, where it is known.

phantom tree -> facts of the images that conditions came from: asked [n]
generated images -> measurer -> measured [n]
  error        mean of |measured - asked|, in the quantity's own unit
  correlation  Pearson's, of measured and asked
  bias         mean of measured - asked

Beside each: the same of the conditions' own real images, which is the measurer's error
and so the ceiling, and the error against the facts of other conditions, which is what
images reach that know nothing of theirs (their correlation is 0).

What may be expected depends on the path. A condition that comes from the image itself
(CLIP vision, ELIXR-C) can tell the ratio. One of words or findings tells whether the
heart is enlarged, and little that is finer (by the age and the view): all images
together correlate, those of one group (`image_set.groups`: "finding: Cardiomegaly",
"finding: No Finding") hardly do.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os

import numpy as np
from PIL import Image

from cxr_diffusion_jax.data.sources.nih import layout
from cxr_diffusion_jax.evaluation import image_set
from cxr_diffusion_jax.evaluation.image_set import ImageSet
from cxr_diffusion_jax.evaluation.judges.anatomy_regressor import Measurer
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.statistics import cluster_bootstrap

# Heart over thorax; shares of the image that are aerated lung; heights of the domes'
# tops from the image's upper edge, as fractions of its side.
QUANTITIES = (
  "cardiothoracic_ratio",
  "lung_area_right",
  "lung_area_left",
  "diaphragm_right",
  "diaphragm_left",
)
FIGURES = ("error", "correlation", "bias")

# Fewer make no correlation worth the name.
MIN_IMAGES = 20

# Parts of the images that tell what a path knows of more than the findings.
GROUPS = ("finding: Cardiomegaly", "finding: No Finding")

# Names the text chunk of phantom PNGs; see `extras/phantom/worker.py`.
TEXT_KEY = "phantom"

NO_FACTS = "true measures are known of phantoms alone"


def facts_of(
  root: str | os.PathLike, ids: Sequence[str]
) -> dict[str, np.ndarray] | None:
  """What is true of images of a phantom tree, read from the PNGs.

  Args:
    root: the tree.
    ids: n names of images, of any split.

  Returns:
    Those of `QUANTITIES` that the tree tells -> [n] float64; None of real trees. Trees
    made before lung and diaphragm were told have the ratio alone.

  Raises:
    errors.InputError: no tree there.
    KeyError: an image that is not in it.
  """
  paths = layout.find_tree(root).originals
  texts = [_png_text(paths[str(name)]) for name in ids]
  if not all(texts):
    return None
  read = [_quantities(json.loads(text)) for text in texts]
  told = set(QUANTITIES).intersection(*read)
  return {
    name: np.array([facts[name] for facts in read], np.float64)
    for name in QUANTITIES
    if name in told
  }


def measure(
  generated: ImageSet,
  conditions: ImageSet,
  facts: Mapping[str, np.ndarray] | None,
  measurer: Measurer | None,
  *,
  num_replicates: int = 1000,
  seed: int = 0,
) -> list[Measurement]:
  """Compares what images measure with what was asked for.

  Args:
    generated: n images, image i for the condition of real image i.
    conditions: those n real images; with the labels `findings`, and `patient` where
      known: patients are drawn whole for the intervals.
    facts: of the real images, as of `facts_of`; None where nothing is known.
    measurer: of these quantities; None without facts.
    num_replicates: of the bootstrap.
    seed: of it.

  Returns:
    QUANTITY_FIGURE of both kinds of images, for all of them and for `GROUPS`, and
    QUANTITY_error_conditions_of_others; without a value where images are too few, or
    nothing is known.
  """
  if facts is None or measurer is None:
    return [_undefined(f"{QUANTITIES[0]}_error", NO_FACTS, len(generated))]
  clusters = np.asarray(conditions.labels.get("patient", conditions.ids))
  parts = image_set.groups(conditions)
  groups = {"all": np.ones(len(conditions), bool)}
  groups |= {name: parts[name] for name in GROUPS if name in parts}
  made: list[Measurement] = []
  for of, images in (("generated", generated.images), ("real", conditions.images)):
    measured = measurer.quantities(images)
    for name in (one for one in QUANTITIES if one in measured and one in facts):
      told = {"judge": _judge(measurer), "standin": True, "of": of}
      for group, rows in groups.items():
        pairs = measured[name][rows], np.asarray(facts[name])[rows]
        made += _compared(
          name, *pairs, clusters[rows], num_replicates, seed, {**told, "group": group}
        )
  return made


def figures(
  measured: np.ndarray, asked: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
  """`FIGURES` of images that count `weights` times.

  Args:
    measured: [n].
    asked: [n].
    weights: [r n], of each image in each of r replicates.

  Returns:
    Name -> [r]; the correlation is 0 where either does not vary.
  """
  share = weights / weights.sum(axis=1, keepdims=True)

  def centred(values: np.ndarray) -> np.ndarray:
    return values - (share @ values)[:, None]

  x, y = centred(measured), centred(asked)
  spread = np.sqrt((share * x * x).sum(axis=1) * (share * y * y).sum(axis=1))
  together = (share * x * y).sum(axis=1)
  varies = spread > 1e-12 * (1e-12 + np.abs(asked).max())
  return {
    "error": share @ np.abs(measured - asked),
    "correlation": np.where(varies, together / np.where(varies, spread, 1), 0),
    "bias": share @ (measured - asked),
  }


def error_of_others(measured: np.ndarray, asked: np.ndarray) -> np.ndarray:
  """[n], the mean of |measured_i - asked_j| over all j but i."""
  order = np.sort(asked)
  totals = np.concatenate([[0.0], np.cumsum(order)])
  n, below = len(asked), np.searchsorted(order, measured)
  # Of sorted values: those below add x - a, those above a - x.
  under = below * measured - totals[below]
  over = totals[-1] - totals[below] - (n - below) * measured
  return (under + over - np.abs(measured - asked)) / (n - 1)


def _compared(
  name: str,
  measured: np.ndarray,
  asked: np.ndarray,
  clusters: np.ndarray,
  num_replicates: int,
  seed: int,
  told: Mapping[str, object],
) -> list[Measurement]:
  """The figures of one quantity and group."""
  n, better = len(asked), {"error": "lower", "correlation": "higher"}
  if n < MIN_IMAGES:
    reason = f"{n} images; at least {MIN_IMAGES}"
    return [_undefined(f"{name}_{one}", reason, n, **told) for one in FIGURES]

  def estimate(figure_fn):
    return cluster_bootstrap.estimate(
      figure_fn, [clusters], num_replicates=num_replicates, seed=seed
    )

  chance = error_of_others(measured, asked)
  found = {
    one: estimate(lambda weights, one=one: figures(measured, asked, weights)[one])
    for one in FIGURES
  }
  found["error_conditions_of_others"] = estimate(
    lambda weights: weights @ chance / weights.sum(axis=1)
  )
  return [
    Measurement(
      subject="adherence",
      metric=f"{name}_{one}",
      num=n,
      **dataclasses.asdict(value),
      better=better.get(one, ""),
      **told,
    )
    for one, value in found.items()
  ]


def _undefined(metric: str, reason: str, num: int, **told) -> Measurement:
  return Measurement(
    subject="adherence", metric=metric, value=None, reason=reason, num=num, **told
  )


def _judge(measurer: Measurer) -> str:
  return f"measurer, trained on {measurer.num_training:,} phantoms"


def _png_text(path: str | os.PathLike) -> str:
  """The JSON that phantom PNGs hold in their header; "" in other images."""
  with Image.open(path) as image:
    return image.info.get(TEXT_KEY, "")


def _quantities(facts: Mapping) -> dict[str, float]:
  """One image's, of those that are told."""
  told = {"cardiothoracic_ratio": facts["cardiothoracic_ratio"]}
  for name in ("lung_area", "diaphragm"):
    if name in facts:
      told |= dict(zip((f"{name}_right", f"{name}_left"), facts[name], strict=True))
  return told
