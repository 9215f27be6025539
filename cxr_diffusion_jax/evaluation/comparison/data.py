"""The results of a comparison of conditioning paths, before they are shown.

runs -> assess -> Comparison -> comparison_page: report.html, figures, table.md
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

import numpy as np

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation import measurement
from cxr_diffusion_jax.evaluation.measurement import Key, Measurement

# Tag -> (steps, values), of one run.
Losses = Mapping[str, tuple[Sequence[int], Sequence[float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepPoint:
  """One guidance scale: a distance and an adherence of the same images.

  Attributes:
    guidance: scale.
    fidelity: the distance to real images; lower is better.
    adherence: macro AUROC of the requested findings; higher is better.
  """

  guidance: float
  fidelity: Measurement
  adherence: Measurement


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PathResult:
  """One conditioning path: all of its runs (training seeds) and sampling seeds.

  Attributes:
    name: of the path.
    runs: names of its runs' folders, one a training seed.
    images: uint8 [k h w 1], generated for the k conditions that are shown, with the
      same noise in every path; of its first run and sampling seed.
    measurements: of all its images together, with intervals over images and seeds.
    features: extractor's name -> [n d] float32 of generated images of its first run.
    losses: run's name -> its loss curves.
    sweep: over guidance scales; may be empty.
    neighbours: uint8 [m 2 h w 1], generated images beside their nearest training
      images, nearest pair first; m may be 0.
    neighbour_captions: [m], below each pair.
    description: of its data ("phantom images, stand-in elixrc").
    curve: label efficiency: (share of the real training images, arm, macro AUROC) of
      classifiers; may be empty.
    generated: all images of its first run and sampling seed, for readers.
  """

  name: str
  runs: Sequence[str]
  images: np.ndarray
  measurements: Sequence[Measurement]
  features: Mapping[str, np.ndarray]
  losses: Mapping[str, Losses]
  sweep: Sequence[SweepPoint]
  neighbours: np.ndarray
  neighbour_captions: Sequence[str]
  description: str
  curve: Sequence[tuple[float, str, Measurement]] = ()
  generated: ImageSet | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """Which paths are best by one figure.

  Attributes:
    key: `Measurement.key` of the figure.
    ranking: names of paths, best first.
    best: those that no other is significantly better than; one name is a winner.
    differences: (path, low, high): the 95 % interval of its figure minus that of the
      first in the ranking, over the same conditions and seeds; one each but the first.
  """

  key: Key
  ranking: Sequence[str]
  best: Sequence[str]
  differences: Sequence[tuple[str, float, float]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
  """Everything that is shown.

  Attributes:
    title: of the page.
    facts: label -> text: images, split, seeds, evaluations an image, judges ...
    warnings: sentences on what makes the comparison unequal or weak.
    differences: config's key -> path -> value, of keys that differ between paths.
    paths: in the requested order.
    real: floors and ceilings, measurements with of="real".
    verdicts: of figures that have a better side.
    shown: uint8 [k h w 1], real images that the shown conditions were taken from.
    captions: [k], the findings of each.
    real_features: extractor's name -> [n d] float32 of real images.
    limitations: sentences.
    reference: the real images that figures compare with, for readers.
  """

  title: str
  facts: Mapping[str, str]
  warnings: Sequence[str]
  differences: Mapping[str, Mapping[str, str]]
  paths: Sequence[PathResult]
  real: Sequence[Measurement]
  verdicts: Sequence[Verdict]
  shown: np.ndarray
  captions: Sequence[str]
  real_features: Mapping[str, np.ndarray]
  limitations: Sequence[str]
  reference: ImageSet | None = None


def write_metrics(compared: Comparison, folder: pathlib.Path) -> None:
  """Writes FOLDER/metrics.json: every figure, null where undefined, with the reason."""
  values = {
    "schema": measurement.SCHEMA,
    "facts": dict(compared.facts),
    "warnings": list(compared.warnings),
    "paths": {
      result.name: {
        "runs": list(result.runs),
        "data": result.description,
        "last_losses": {
          run: {tag: values[-1] for tag, (_, values) in of_run.items()}
          for run, of_run in result.losses.items()
        },
        "measurements": [measurement.to_json(one) for one in result.measurements],
        "sweep": [dataclasses.asdict(point) for point in result.sweep],
        "label_efficiency": [
          {"fraction": fraction, "arm": arm, "auroc": measurement.to_json(auroc)}
          for fraction, arm, auroc in result.curve
        ],
      }
      for result in compared.paths
    },
    "real": [measurement.to_json(one) for one in compared.real],
    "verdicts": [dataclasses.asdict(one) for one in compared.verdicts],
  }
  artifacts.write_json(folder / "metrics.json", values)
