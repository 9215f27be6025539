"""The facts and limitations of a comparison, and the images that it shows.

context, paths, options -> facts, limitations; conditions, pairs of neighbours
"""

from collections.abc import Mapping, Sequence
import shlex
import sys

import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.data.sources import phantom
from cxr_diffusion_jax.evaluation import assessment
from cxr_diffusion_jax.evaluation.comparison.path_assessment import JudgedSet, Options
from cxr_diffusion_jax.evaluation.comparison.paths import ConditioningPath
from cxr_diffusion_jax.evaluation.comparison.sweep import Sweep
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.metrics import reconstruction
from cxr_diffusion_jax.run.sample_section import SampleSettings

# Images with a finding, below which a mean that counts it is reported with a warning.
FEW_POSITIVES = 20

# Conditions that are shown, and nearest training images.
NUM_SHOWN, NUM_NEIGHBOURS = 10, 8

LIMITATIONS = (
  "Every figure depends on the number of images and on the network that scored them;"
  " compare it with figures of the same table only.",
  "Intervals are 95 %, over patients, sampling seeds and training runs where there are"
  " several. Two or three training runs say little about how much another differs.",
  "The best path is marked per figure, with all pairs of paths compared at once; over"
  " many figures some marks are chance: only the primary figure was named before.",
  "A classifier's score of a generated image is not a radiologist's opinion. Not for"
  " clinical use.",
)
ON_PHANTOMS = (
  "These are phantoms, drawn by a program, and encoders that were trained on them. The"
  " comparison shows what each condition carries here, not which published encoder is"
  " best on X-rays."
)

ONE_GUIDANCE = (
  "Guidance was not chosen for each path by a sweep: a path may be better at another"
  " scale."
)


def neighbours(
  context: EvalContext, images: types.Arrays, judged: assessment.Assessment
) -> artifacts.Json:
  """Generated images beside training images: copies first, then the nearest."""
  training, pairs = context.training, [*judged.copies, *judged.nearest]
  pairs = [] if training is None else pairs[:NUM_NEIGHBOURS]
  beside = [
    np.stack([images[row], training.images[other]])
    for row, other, _ in pairs
    if training is not None
  ]
  return {
    "neighbours": np.stack(beside) if beside else np.zeros((0, 2, 1, 1, 1), np.uint8),
    "neighbour_captions": [caption for _, _, caption in pairs],
  }


def elicited(
  generated: assessment.GeneratedSet, judged: assessment.Assessment
) -> artifacts.Json:
  """Images for training conditions beside training images: copies, then the nearest."""
  if generated.elicited is None:
    return {}
  of_training, _ = generated.elicited
  pairs = judged.elicited[:NUM_NEIGHBOURS]
  images = of_training.generated.images, of_training.originals.images
  beside = [np.stack([images[0][a], images[1][b]]) for a, b, _ in pairs]
  captions = [caption for _, _, caption in pairs]
  return {"elicited": beside, "elicited_captions": captions} if pairs else {}


def few_positives(context: EvalContext) -> list[str]:
  """A warning where means over findings are of few images with one of them."""
  if "findings" not in context.conditions.labels:
    return []
  counts = np.asarray(context.conditions.labels["findings"] > 0.5).sum(axis=0)
  few = [
    f"{name} {count}"
    for name, count in zip(context.conditions.vocabulary, counts, strict=True)
    if adherence.MIN_POSITIVES <= count < FEW_POSITIVES
  ]
  if not few:
    return []
  return [
    "Means over findings include findings of fewer than"
    f" {FEW_POSITIVES} images, whose figures say little: {', '.join(few)}."
  ]


def shown(context: EvalContext) -> list[int]:
  """Rows of conditions: the first of each finding, then those with most findings."""
  findings = np.asarray(context.conditions.labels["findings"]) > 0.5
  first = [int(np.flatnonzero(column)[0]) for column in findings.T if column.any()]
  order = np.argsort(-findings.sum(axis=1), kind="stable").tolist()
  return list(dict.fromkeys([*first, *order]))[:NUM_SHOWN]


def captions(context: EvalContext) -> list[str]:
  findings = context.conditions.labels["findings"]
  vocabulary = context.conditions.vocabulary
  return [labels.caption_of(findings[row], vocabulary) for row in shown(context)]


def stack(images: types.Arrays, rows: Sequence[int]) -> np.ndarray:
  return np.stack([images[row] for row in rows])


def of_paths(
  context: EvalContext,
  paths: Sequence[ConditioningPath],
  sets: Mapping[str, Sequence[Sequence[JudgedSet]]],
  options: Options,
  sweep: Sweep | None,
) -> dict[str, str]:
  """What was compared and how: label -> text."""
  assert context.training is not None
  assert context.records is not None
  first = sets[paths[0].name][0][0].generator
  generators = [of_path[0][0].generator.generator for of_path in sets.values()]
  costs = sorted({generator.evaluations() for generator in generators})
  settings = first.generator.settings
  return {
    "conditions": f"{len(context.conditions):,} {context.split} conditions"
    f" ({context.origin}) of {context.conditions.num_patients:,} patients, one image"
    " generated for each, run and seed; the same noise in every path",
    "reference": f"{len(context.reference):,} {context.split} images of"
    f" {context.reference.num_patients:,} other patients",
    "primary figure": f"{options.primary}, named before the run",
    "training images": f"{len(context.training):,}",
    "image size": f"{context.records.image_size} pixels",
    "training runs": "; ".join(
      f"{path.name}: {', '.join(run.folder.name for run in path.runs)}"
      for path in paths
    ),
    "checkpoints": "; ".join(
      f"{path.name}: {', '.join(run.checkpoint_text for run in path.runs)}"
      for path in paths
    ),
    "sampling seeds": ", ".join(map(str, options.seeds)),
    "sampler": f"{settings.sampler}, {settings.num_steps} steps,"
    f" {', '.join(map(str, costs))} evaluations an image",
    "guidance": guidance(
      {name: of[0][0].generator.generator.settings for name, of in sets.items()},
      options,
      sweep,
    ),
    "codec alone": "; ".join(
      f"{path.name}: {reconstruction.read(path.runs[0].folder, path.config)}"
      for path in paths
    ),
    **judges(context),
    **command("compare" if len(paths) > 1 else "evaluate"),
  }


def guidance(
  settings: Mapping[str, SampleSettings], options: Options, sweep: Sweep | None
) -> str:
  """The scale of each path, and how it was chosen."""
  scales = {name: of_path.guidance_text for name, of_path in settings.items()}
  shown = ", ".join(f"{name} {scale}" for name, scale in scales.items())
  if sweep is None:
    if len(set(scales.values())) == 1:
      shown = next(iter(scales.values())) + " in all paths" * (len(scales) > 1)
    return f"{shown}; not chosen by a sweep"
  tried = ", ".join(f"{scale:g}" for scale in options.sweep)
  return (
    f"{shown}: of {tried} the best by {options.primary}, with {sweep.num:,} validation"
    f" conditions of {sweep.patients:,} patients, the first training run and the first"
    " seed; the same conditions and noise in every path"
  )


def command(main: str) -> dict[str, str]:
  """The command line of this call, of the module `main`."""
  arguments = ["python", "-m", f"cxr_diffusion_jax.{main}", *sys.argv[1:]]
  return {"command": shlex.join(arguments)}


def judges(context: EvalContext) -> dict[str, str]:
  """The networks that scored the images, and unavailable ones."""
  networks = [
    f"{one.name} ({one.layer}{', stand-in' if one.standin else ''})"
    for one in context.extractors
  ]
  skipped = [f"{name}: {reason}" for name, reason in context.skipped.items()]
  return {
    "features": "; ".join(networks),
    "unavailable features": "; ".join(skipped) or "none",
    "judges of findings": "; ".join(
      [context.judge_name, *(one.title for one in context.classifiers)]
    ),
  }


def limitations(context: EvalContext, *, swept: bool = True) -> list[str]:
  """What the figures do not show, in sentences.

  Args:
    swept: whether each path has its best guidance, or there are no paths.
  """
  return [
    *([ON_PHANTOMS] if context.origin == phantom.ORIGIN else []),
    *([] if swept else [ONE_GUIDANCE]),
    *LIMITATIONS,
  ]
