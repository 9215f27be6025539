"""What a comparison says of itself: what was compared, how, and what it cannot tell.

bench, paths, options -> facts, limitations; which conditions and pairs are shown
"""

from collections.abc import Mapping, Sequence
import shlex
import sys
from typing import Any

import numpy as np

from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.evaluation import assessment
from cxr_diffusion_jax.evaluation.comparison.path_assessment import Options, Set
from cxr_diffusion_jax.evaluation.comparison.paths import Path
from cxr_diffusion_jax.evaluation.eval_context import Bench
from cxr_diffusion_jax.evaluation.metrics import reconstruction

# Conditions that are shown, and nearest training images.
NUM_SHOWN, NUM_NEIGHBOURS = 10, 8

LIMITATIONS = (
  "Every figure depends on the number of images and on the network that looked at them;"
  " it compares with figures of the same table alone.",
  "Intervals are 95 %: of the images, of sampling seeds and of training runs as far as"
  " there are several. Two or three training runs say little about how much another one"
  " would differ.",
  "A best is marked per figure; over many figures some will be marked by chance.",
  "A classifier's opinion of a generated image is no radiologist's. Not for clinical"
  " use.",
)
ON_PHANTOMS = (
  "These are phantoms, drawn by a program, and encoders that were trained on them: the"
  " comparison shows that it works and what each condition carries here, not which"
  " published encoder is best on X-rays."
)


def neighbours(
  bench: Bench, images: Sequence[np.ndarray], found: assessment.Assessment
) -> dict[str, Any]:
  """Generated images beside training images: copies first, then the nearest."""
  pairs = [*found.copies, *found.nearest][:NUM_NEIGHBOURS]
  beside = [
    np.stack([images[row], bench.training.images[training]])
    for row, training, _ in pairs
  ]
  return {
    "neighbours": np.stack(beside) if beside else np.zeros((0, 2, 1, 1, 1), np.uint8),
    "neighbour_captions": [words for _, _, words in pairs],
  }


def shown(bench: Bench) -> list[int]:
  """The first image of each finding, then whatever has most findings."""
  findings = np.asarray(bench.conditions.labels["findings"])
  first = [int(np.flatnonzero(column)[0]) for column in findings.T if column.any()]
  order = np.argsort(-findings.sum(axis=1), kind="stable").tolist()
  return list(dict.fromkeys([*first, *order]))[:NUM_SHOWN]


def captions(bench: Bench) -> list[str]:
  findings, vocabulary = (
    bench.conditions.labels["findings"],
    bench.conditions.vocabulary,
  )
  return [
    ", ".join(labels.names_of(findings[row], vocabulary)) or labels.NO_FINDING
    for row in shown(bench)
  ]


def stack(images: Sequence[np.ndarray], rows: Sequence[int]) -> np.ndarray:
  return np.stack([images[row] for row in rows])


def of_paths(
  bench: Bench,
  paths: Sequence[Path],
  sets: Mapping[str, Sequence[Sequence[Set]]],
  options: Options,
) -> dict[str, str]:
  """What was compared and how, for people."""
  first = sets[paths[0].name][0][0].generator
  costs = sorted({of_path[0][0].generator.evaluations for of_path in sets.values()})
  settings = first.settings
  kind = "phantoms" if bench.phantom else "real images"
  return {
    "conditions": f"{len(bench.conditions):,} {bench.split} images ({kind}), one image"
    " generated for each, run and seed; the same noise in every path",
    "reference": f"{len(bench.reference):,} {bench.split} images of other patients",
    "training images": f"{len(bench.training):,}",
    "image size": f"{bench.records.image_size} pixels",
    "training runs": "; ".join(
      f"{path.name}: {', '.join(run.folder.name for run in path.runs)}"
      for path in paths
    ),
    "steps": ", ".join(map(str, sorted({x for path in paths for x in path.steps}))),
    "sampling seeds": ", ".join(map(str, options.seeds)),
    "sampler": f"{settings.sampler}, {settings.num_steps} steps, guidance"
    f" {settings.guidance_text}; {', '.join(map(str, costs))} evaluations an image",
    "codec alone": "; ".join(
      f"{path.name}: {reconstruction.read(path.runs[0].folder, path.config)}"
      for path in paths
    ),
    **judges(bench),
    **command("compare" if len(paths) > 1 else "evaluate"),
  }


def command(main: str) -> dict[str, str]:
  """The command line of this very call, for whoever repeats it.

  Args:
    main: name of the module that was called.
  """
  words = ["python", "-m", f"cxr_diffusion_jax.{main}", *sys.argv[1:]]
  return {"command": shlex.join(words)}


def judges(bench: Bench) -> dict[str, str]:
  """Which networks looked at the images, and which were not there."""
  networks = [
    f"{one.name} ({one.layer}{', stand-in' if one.standin else ''})"
    for one in bench.extractors
  ]
  skipped = [f"{name}: {reason}" for name, reason in bench.skipped.items()]
  return {
    "features": "; ".join(networks),
    "features not at hand": "; ".join(skipped) or "none",
    "judge of findings": bench.judge_name,
  }


def limitations(bench: Bench) -> list[str]:
  """What the figures cannot tell, in sentences."""
  return [*([ON_PHANTOMS] if bench.phantom else []), *LIMITATIONS]
