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
from cxr_diffusion_jax.evaluation.comparison import groups
from cxr_diffusion_jax.evaluation.comparison.pooling import Verdict
from cxr_diffusion_jax.evaluation.measurement import Measurement

# Tag -> (steps, values), of one run.
Losses = Mapping[str, tuple[Sequence[int], Sequence[float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepPoint:
  """One guidance scale: figures of the same validation conditions at each scale.

  Attributes:
    primary: the figure that the scale is chosen by.
    fidelity: a distance.
    adherence: whether the findings are seen.
    chosen: whether the path's other figures are of this scale.
  """

  guidance: float
  primary: Measurement
  fidelity: Measurement
  adherence: Measurement
  chosen: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PathResult:
  """One conditioning path: all of its runs (training seeds) and sampling seeds.

  Attributes:
    images: uint8 [k h w 1], generated for the k conditions that are shown, with the
      same noise in every path; of its first run and sampling seed.
    neighbours: uint8 [m 2 h w 1], generated images beside their nearest training
      images, nearest pair first; m may be 0.
    elicited: uint8 [m 2 h w 1], images generated for conditions of training images
      beside these, copies first; m may be 0.
    references: uint8 [k h w 1], the images that these conditions were made from, where
      they are not the real images themselves; k may be 0.
    curve: label efficiency: (share of the real training images, arm, macro AUROC) of
      classifiers; may be empty.
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
  references: Sequence[np.ndarray] | np.ndarray = ()
  curve: Sequence[tuple[float, str, Measurement]] = ()
  generated: ImageSet | None = None
  elicited: Sequence[np.ndarray] = ()
  elicited_captions: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
  """Everything that is shown.

  Attributes:
    differences: config's key -> path -> value, of keys that differ between paths.
    shown: uint8 [k h w 1], real images that the shown conditions were taken from.
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
        "measurements": [one.facts for one in result.measurements],
        "groups": [
          dataclasses.asdict(one)
          for one in groups.figures(result.measurements, compared.real)
        ],
        "sweep": [
          {
            "guidance": point.guidance,
            "chosen": point.chosen,
            "primary": point.primary.facts,
            "fidelity": point.fidelity.facts,
            "adherence": point.adherence.facts,
          }
          for point in result.sweep
        ],
        "label_efficiency": [
          {"fraction": fraction, "arm": arm, "auroc": auroc.facts}
          for fraction, arm, auroc in result.curve
        ],
      }
      for result in compared.paths
    },
    "real": [one.facts for one in compared.real],
    "verdicts": [dataclasses.asdict(one) for one in compared.verdicts],
  }
  artifacts.write_json(folder / "metrics.json", values)
