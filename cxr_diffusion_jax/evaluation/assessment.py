"""One set of generated images, judged: every subject's figures, kept on disk.

generated images --extractors, judge--> features, scores
  --fidelity, adherence, diversity, privacy--> [Measurement, ...] -> assessment-*.json

What a subject cannot measure of too few images is told as undefined, with the minimum;
nothing else is lost by it.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.evaluation import image_set, measurement
from cxr_diffusion_jax.evaluation.eval_context import Bench, preferred
from cxr_diffusion_jax.evaluation.image_set import ImageSet
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import (
  condition_diversity,
  fidelity_table,
  privacy,
)

# Raised when the same images give other figures: then they are measured again.
FORMAT = 1

# Pairs of generated and training images that are kept for pictures.
NUM_PAIRS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assessment:
  """What was found.

  Attributes:
    measurements: all figures, floors and ceilings among them.
    nearest: generated image and training image that are nearest: row, row, words.
    copies: the same, of images that are copies.
  """

  measurements: Sequence[Measurement]
  nearest: Sequence[tuple[int, int, str]] = ()
  copies: Sequence[tuple[int, int, str]] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Made:
  """Generated images, ready to be judged.

  Attributes:
    images: image i was generated for condition i of the bench.
    features: extractor -> [n d].
    repeats: uint8 [c m h w 1], m images of each of c conditions; None for none.
    repeat_features: extractor -> [c m d].
  """

  images: ImageSet
  features: Mapping[str, np.ndarray]
  repeats: np.ndarray | None = None
  repeat_features: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def assess(
  bench: Bench,
  made: Made,
  subjects: Sequence[str],
  *,
  keep: pathlib.Path | None = None,
  seed: int = 0,
  progress: types.Progress = types.no_progress,
) -> Assessment:
  """Measures a set of images, or reads what was measured of it before.

  Args:
    bench: what they are judged by.
    made: the images.
    subjects: of `MEASURES`.
    keep: folder of this very set; None to keep nothing.
    seed: of bootstraps.
    progress: told during long work.
  """
  path = None
  if keep is not None:
    path = keep / f"assessment-{_fingerprint(bench, made, subjects)}.json"
    if path.is_file():
      return _read(path)
  found = [MEASURES[subject](bench, made, seed, progress) for subject in subjects]
  whole = Assessment(
    measurements=[one for part in found for one in part.measurements],
    nearest=[pair for part in found for pair in part.nearest],
    copies=[pair for part in found for pair in part.copies],
  )
  if path is not None:
    artifacts.write_text(path, json.dumps(_to_json(whole), indent=1) + "\n")
  return whole


def floors(
  bench: Bench, *, seed: int = 0, progress: types.Progress = types.no_progress
) -> list[Measurement]:
  """Fidelity of the conditions' own real images: what as many real images reach."""
  of_conditions = image_set.groups(bench.conditions)
  features = {name: of["conditions"] for name, of in bench.features.items()}
  found = _of_features(bench, features, of_conditions, seed, progress, "floor of")
  return [dataclasses.replace(one, of="real") for one in found]


def _fidelity(
  bench: Bench, made: Made, seed: int, progress: types.Progress
) -> Assessment:
  rows = np.arange(len(made.images))
  if len(rows) > len(bench.conditions):
    # As many as the floor has, with which these figures are compared.
    chosen = np.random.default_rng(seed).permutation(rows)
    rows = np.sort(chosen[: len(bench.conditions)])
  groups = {name: mask[rows] for name, mask in image_set.groups(made.images).items()}
  features = {name: values[rows] for name, values in made.features.items()}
  found = _of_features(bench, features, groups, seed, progress, made.images.name)
  return Assessment(measurements=found)


def _of_features(
  bench: Bench,
  features: Mapping[str, np.ndarray],
  groups: Mapping[str, np.ndarray],
  seed: int,
  progress: types.Progress,
  name: str,
) -> list[Measurement]:
  of_reference = image_set.groups(bench.reference)
  shared = {
    group: (of_reference[group], rows, None)
    for group, rows in groups.items()
    if group in of_reference and rows.any()
  }
  measured = []
  for number, extractor in enumerate(bench.extractors):
    measured += fidelity_table.measure(
      bench.features[extractor.name]["reference"],
      features[extractor.name],
      held_out=None,
      extractor=extractor,
      groups=shared,
      seed=seed,
    )
    progress(f"{name} fidelity", number + 1, len(bench.extractors))
  return measured


def _adherence(
  bench: Bench, made: Made, seed: int, progress: types.Progress
) -> Assessment:
  del seed, progress
  found = judges_lib.measure_all(bench.judges, made.images, "generated")
  return Assessment(measurements=found)


def _diversity(
  bench: Bench, made: Made, seed: int, progress: types.Progress
) -> Assessment:
  del progress
  extractor = preferred(bench.extractors)
  images, features = made.repeats, made.repeat_features.get(extractor.name)
  if images is None:
    # Of each condition one image: nothing within a condition, pairs of all.
    images = np.stack(list(made.images.images))[:, None]
    features = made.features[extractor.name][:, None]

  def measured():
    return condition_diversity.measure(
      images,
      features,
      real=bench.reference,
      real_features=bench.features[extractor.name]["reference"],
      extractor=extractor,
      seed=seed,
    )

  return Assessment(
    measurements=judges_lib.attempt("diversity", "ms_ssim", len(made.images), measured)
  )


def _privacy(
  bench: Bench, made: Made, seed: int, progress: types.Progress
) -> Assessment:
  if bench.training is None:
    reason = "the images that the model was trained on are not known"
    metric = "distance_to_training_p50"
    nothing = Measurement(
      subject="privacy",
      metric=metric,
      value=None,
      reason=reason,
      num=len(made.images),
    )
    return Assessment(measurements=[nothing])
  name = preferred(bench.extractors).name
  report = privacy.measure(
    made.features[name],
    made.images,
    bench.privacy_reference,
    conditioning=bench.features[name]["conditions"] if bench.aligned else None,
    seed=seed,
    progress=progress,
  )

  def told(pairs):
    return [
      (
        pair.generated,
        pair.training,
        f"{pair.kind}: {pair.generated_id} and training {pair.training_id}, distance"
        f" {pair.distance:.3g}; {pair.real_share:.0%} of real test images are nearer",
      )
      for pair in pairs[:NUM_PAIRS]
    ]

  return Assessment(
    measurements=report.measurements,
    nearest=told(report.nearest),
    copies=told(report.duplicates),
  )


# Subject -> what measures it of one set of images.
MEASURES: Mapping[str, Callable[..., Assessment]] = {
  "fidelity": _fidelity,
  "adherence": _adherence,
  "diversity": _diversity,
  "privacy": _privacy,
}


def _fingerprint(bench: Bench, made: Made, subjects: Sequence[str]) -> str:
  facts = [
    FORMAT,
    sorted(subjects),
    [extractor.fingerprint for extractor in bench.extractors],
    bench.judge.fingerprint if bench.judge else "",
    [str(name) for name in made.images.ids],
    [str(name) for name in bench.conditions.ids],
    [str(name) for name in bench.reference.ids],
    0 if made.repeats is None else list(made.repeats.shape),
  ]
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _to_json(whole: Assessment) -> dict[str, Any]:
  return {
    "schema": measurement.SCHEMA,
    "measurements": [measurement.to_json(one) for one in whole.measurements],
    "nearest": list(whole.nearest),
    "copies": list(whole.copies),
  }


def _read(path: pathlib.Path) -> Assessment:
  values = json.loads(path.read_text(encoding="utf-8"))
  return Assessment(
    measurements=[measurement.from_json(one) for one in values["measurements"]],
    nearest=[tuple(pair) for pair in values["nearest"]],
    copies=[tuple(pair) for pair in values["copies"]],
  )
